"""What operators have decided about backends: the table `backend_states`."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import Row, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from db.audit import AuditLog
from db.tables import BackendStateTable
from domain.drains import Drain, checked_reason

CHANNEL: Final = "backend_states"
"""The NOTIFY channel of the table's trigger; there is no payload."""
LOCK: Final = int.from_bytes(b"nng_back")
"""The advisory lock of whoever drains or lets back in: two must not compare with the same state before."""

_SAID: Final = (
    BackendStateTable.name,
    BackendStateTable.reason,
    BackendStateTable.changed_by,
    BackendStateTable.changed_at,
)
_Said = Row[str, str, str, datetime]
_DRAINS: Final = select(*_SAID).where(BackendStateTable.drained)
_TAKE_LOCK: Final = text(f"SELECT pg_advisory_xact_lock({LOCK})")


class BackendStates:
    """Drains backends and lets them back in, within one unit of work. Names are not checked against any settings."""

    def __init__(self, session: AsyncSession, audit: AuditLog) -> None:
        self._session = session
        self._audit = audit

    async def drained(self) -> Mapping[str, Drain]:
        """Return every drained backend by its name."""
        return {drain.backend: drain for drain in map(_drain, await self._session.execute(_DRAINS))}

    async def drain(self, backend: str, reason: str) -> Drain:
        """Take a backend out of service. To say it again with the same reason leaves no trace.

        Raises
        ------
        ReasonMissing
            There is no reason, or it is too long.
        """
        reason = checked_reason(reason)
        before = await self._locked(backend)
        if before is not None and before.reason == reason:
            return before
        after = _drain(await self._write(backend, drained=True, reason=reason))
        await self._audit.append("backend.drain", f"backend:{backend}", before=before, after=after)
        return after

    async def undrain(self, backend: str) -> bool:
        """Let a backend back in; return False, and leave no trace, if it was not drained."""
        before = await self._locked(backend)
        if before is None:
            return False
        await self._write(backend, drained=False, reason="")
        await self._audit.append("backend.undrain", f"backend:{backend}", before=before)
        return True

    async def _locked(self, backend: str) -> Drain | None:
        await self._session.execute(_TAKE_LOCK)
        found = await self._session.execute(_DRAINS.where(BackendStateTable.name == backend))
        row = found.first()
        return None if row is None else _drain(row)

    async def _write(self, backend: str, *, drained: bool, reason: str) -> _Said:
        values = {
            "drained": drained,
            "reason": reason,
            "changed_by": self._audit.actor.name,
            "changed_at": func.now(),
        }
        written = await self._session.execute(
            insert(BackendStateTable)
            .values(name=backend, **values)
            .on_conflict_do_update(index_elements=[BackendStateTable.name], set_=values)
            .returning(*_SAID)
        )
        return written.one()


class DrainedBackends:
    """Reads which backends are drained; one statement per call."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def names(self) -> frozenset[str]:
        """Return the names of all drained backends; raises what the driver raises."""
        async with self._engine.connect() as connection:
            found = await connection.execute(_DRAINS)
        return frozenset(row.name for row in found)


def _drain(row: _Said) -> Drain:
    return Drain(backend=row.name, reason=row.reason, by=row.changed_by, at=row.changed_at)
