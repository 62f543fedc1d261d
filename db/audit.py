"""Who changed what: rows are appended in the transaction of the change itself, and never touched again."""

from datetime import datetime
from ipaddress import ip_address
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import insert, select, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from db.tables import AuditEventTable
from domain.tenants import Actor, AuditEvent, AuditFilter


class AuditLog:
    """Appends what one actor does within one unit of work."""

    def __init__(self, session: AsyncSession, actor: Actor) -> None:
        self._session = session
        self.actor = actor

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
        address = self.actor.address
        await self._session.execute(
            insert(AuditEventTable).values(
                actor=self.actor.name,
                action=action,
                subject=subject,
                before=_plain(before),
                after=_plain(after),
                request_id=self.actor.request_id,
                address=None if address is None else ip_address(address),
            )
        )


class AuditTrail:
    """Reads what was noted; one statement per call."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def newest(
        self, wanted: AuditFilter, *, before: tuple[datetime, UUID] | None, limit: int
    ) -> tuple[AuditEvent, ...]:
        """Return matching events, newest first.

        Parameters
        ----------
        wanted
            What to look for.
        before
            Time and id of the event to go on after; None begins with the newest.
        limit
            How many at most.
        """
        table = AuditEventTable
        query = select(
            table.id, table.at, table.actor, table.action, table.subject,
            table.before, table.after, table.request_id, table.address,
        ).order_by(table.at.desc(), table.id.desc()).limit(limit)  # fmt: skip
        for column, value in (
            (table.subject, wanted.subject),
            (table.action, wanted.action),
            (table.actor, wanted.actor),
        ):
            if value is not None:
                query = query.where(column == value)
        if wanted.since is not None:
            query = query.where(table.at >= wanted.since)
        if wanted.until is not None:
            query = query.where(table.at < wanted.until)
        if before is not None:
            query = query.where(tuple_(table.at, table.id) < before)
        async with self._engine.connect() as connection:
            found = await connection.execute(query)
        return tuple(
            AuditEvent(
                id=row.id,
                at=row.at,
                actor=row.actor,
                action=row.action,
                subject=row.subject,
                before=row.before,
                after=row.after,
                request_id=row.request_id,
                address=None if row.address is None else str(row.address),
            )
            for row in found
        )


def _plain(value: msgspec.Struct | dict[str, Any] | None) -> Any:
    return None if value is None else msgspec.to_builtins(value)
