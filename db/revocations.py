"""The sequence of revocations, as every process follows it. Triggers write it; nothing here does."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.tenants import Revocation, RevocationScope

# The primary key read from its end: one index row, however long the table is.
_LATEST: Final = text("SELECT COALESCE(max(seq), 0) FROM revocations")
_SINCE: Final = text("SELECT seq, scope, id, at FROM revocations WHERE seq > :seq ORDER BY seq LIMIT :limit")


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
        return tuple(Revocation(row.seq, RevocationScope(row.scope), row.id, row.at) for row in rows)
