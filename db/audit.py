"""Who changed what: rows are appended in the transaction of the change itself, and never touched again."""

from ipaddress import ip_address
from typing import Any

import msgspec
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from db.tables import AuditEventTable
from domain.tenants import Actor


class AuditLog:
    """Appends what one actor does within one unit of work."""

    def __init__(self, session: AsyncSession, actor: Actor) -> None:
        self._session = session
        self._actor = actor

    async def append(
        self,
        action: str,
        subject: str,
        *,
        before: msgspec.Struct | dict[str, Any] | None = None,
        after: msgspec.Struct | dict[str, Any] | None = None,
    ) -> None:
        """Note one change.

        Parameters
        ----------
        action
            A constant such as `key.revoke`.
        subject
            What was changed, as `tenant:<id>` or `key:<id>`.
        before, after
            The value on either side; never anything that holds a secret or a digest.
        """
        address = self._actor.address
        await self._session.execute(
            insert(AuditEventTable).values(
                actor=self._actor.name,
                action=action,
                subject=subject,
                before=_plain(before),
                after=_plain(after),
                request_id=self._actor.request_id,
                address=None if address is None else ip_address(address),
            )
        )


def _plain(value: msgspec.Struct | dict[str, Any] | None) -> Any:
    return None if value is None else msgspec.to_builtins(value)
