"""The sequence of revocations, as every process follows it. Triggers write it; here only the fence does."""

from collections.abc import Collection
from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from domain.tenants import Revocation, RevocationScope

# The primary key read from its end: one index row, however long the table is.
_LATEST: Final = text("SELECT COALESCE(max(seq), 0) FROM revocations")
_SINCE: Final = text("""
    SELECT r.seq, r.scope, r.id, r.at, CASE r.scope
        WHEN 'key' THEN EXISTS (
            SELECT FROM api_keys AS k WHERE k.id = r.id
            AND k.status = 'active' AND (k.expires_at IS NULL OR k.expires_at > now()))
        ELSE EXISTS (SELECT FROM tenants AS t WHERE t.id = r.id AND t.status = 'active')
        END AS usable
    FROM revocations AS r WHERE r.seq > :seq ORDER BY r.seq LIMIT :limit
""")

_LOCK: Final = text("SELECT pg_advisory_xact_lock(7957411251249051251 /* nng_revs, as in the triggers */)")
_OLDEST: Final = text("SELECT COALESCE(min(seq), 0) FROM revocations")
_STANDING: Final = text("SELECT seq, at FROM revocations WHERE seq = ANY(CAST(:numbers AS bigint[]))")
_FENCE: Final = text("""
    INSERT INTO revocations (seq, scope, id, at)
    VALUES (:seq, 'tenant', '00000000-0000-0000-0000-000000000000', clock_timestamp())
""")
_NOTIFY: Final = text("SELECT pg_notify('key_revoked', CAST(CAST(:seq AS bigint) AS text))")


async def lock_revocations(session: AsyncSession) -> None:
    """Keep every other writer of tenants, keys, limits and grants out until the transaction ends.

    The triggers do it before each write. Doing it before a read makes what was read the value that is changed, as
    the audit log says; and in a transaction of several writes it keeps the order in which all take their locks.
    """
    await session.execute(_LOCK)


class Revocations:
    """Reads the sequence; one statement per call."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def latest_seq(self) -> int:
        """Return the newest number, 0 before the first revocation."""
        async with self._engine.connect() as connection:
            return int((await connection.execute(_LATEST)).scalar_one())

    async def since(self, seq: int, limit: int) -> tuple[Revocation, ...]:
        """Return what came after `seq`, oldest first, at most `limit` entries."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(_SINCE, {"seq": seq, "limit": limit})
        return tuple(
            Revocation(row.seq, RevocationScope(row.scope), row.id, row.at, row.usable) for row in rows
        )


class RevocationHistory:
    """The sequence inside a unit of work: for what compares and outdoes it after a restore."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def lock(self) -> None:
        """Keep every other writer of the sequence out until the unit of work ends."""
        await lock_revocations(self._session)

    async def span(self) -> tuple[int, int]:
        """Return the oldest and the newest number, zeros for an empty sequence."""
        oldest = (await self._session.execute(_OLDEST)).scalar_one()
        return int(oldest), int((await self._session.execute(_LATEST)).scalar_one())

    async def standing(self, numbers: Collection[int]) -> dict[int, datetime]:
        """Return which of these numbers there are, and when each was given."""
        found = await self._session.execute(_STANDING, {"numbers": list(numbers)})
        return {row.seq: row.at for row in found}

    async def raise_fence(self, seq: int) -> None:
        """Go on from `seq`, leaving a gap: whoever sees numbers missing drops everything it has cached."""
        await self._session.execute(_FENCE, {"seq": seq})
        await self._session.execute(_NOTIFY, {"seq": seq})
