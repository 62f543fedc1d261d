"""Repairs of the ledger, each an audit event in the transaction of the change itself."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from db.audit import AuditLog
from db.usage import write_records
from db.usage_roll_ups import mark_hours
from domain.usage import UsageRecord


class UsageRepairs:
    """What may be done to the ledger by hand. Everything is safe to repeat."""

    def __init__(self, session: AsyncSession, audit: AuditLog) -> None:
        self._session = session
        self._audit = audit

    async def insert(self, records: Sequence[UsageRecord], *, source: str) -> int:
        """Write records that did not come by themselves, and return how many rows that changed.

        Parameters
        ----------
        records
            At least one, all of one place.
        source
            Where they were found, for the audit log.
        """
        changed = await write_records(await self._session.connection(), records)
        if changed:
            await self._audit.append(
                "usage.insert",
                f"usage:{source}",
                after={
                    "rows": changed,
                    "requests": [str(record.admission.request_id) for record in records],
                    "tokens": sum(
                        record.settlement.tokens_in + record.settlement.tokens_out for record in records
                    ),
                },
            )
        return changed

    async def mark(self, since: datetime, until: datetime) -> int:
        """Have the sums of a span made anew, and return how many hours that are."""
        marked = await mark_hours(await self._session.connection(), since, until)
        if marked:
            await self._audit.append(
                "usage.mark",
                f"usage:{since.isoformat()}",
                after={"until": until.isoformat(), "hours": marked},
            )
        return marked
