"""What Postgres says when somebody looks for what is wrong: grants that hold, models that load often, its clock."""

from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

# Only what a request can be let in by: a key that has ended grants nothing.
_GRANTS: Final = text("""
    SELECT g.pattern, t.slug, k.prefix
    FROM model_grants AS g
    LEFT JOIN api_keys AS k ON k.id = g.key_id
    JOIN tenants AS t ON t.id = COALESCE(g.tenant_id, k.tenant_id)
    WHERE t.status = 'active'
      AND (g.key_id IS NULL OR (k.status = 'active' AND (k.expires_at IS NULL OR k.expires_at > now())))
    ORDER BY g.pattern, t.slug, k.prefix NULLS FIRST
""")
# The period is the partition key: without it every month would be read.
_LOADS: Final = text("""
    SELECT u.backend, u.model, count(*) AS requests,
        count(*) FILTER (WHERE u.load_us >= :cold_us) AS cold,
        COALESCE(sum(u.load_us), 0)::bigint AS load_us,
        COALESCE(sum(COALESCE(u.load_us, 0) + COALESCE(u.prompt_us, 0) + COALESCE(u.eval_us, 0)), 0)::bigint AS busy_us
    FROM usage_records AS u
    WHERE u.started_at >= :since AND u.backend IS NOT NULL
      AND u.period >= date_trunc('month', CAST(:since AS timestamptz) AT TIME ZONE 'UTC')::date
    GROUP BY u.backend, u.model
    ORDER BY u.backend, u.model
""")
_CLOCK: Final = text("SELECT clock_timestamp()")

COLD_LOAD_US: Final = 1_000_000
"""Ollama reports some milliseconds of loading for a model that is in memory, and seconds for one that is not."""


class GrantLook(msgspec.Struct, frozen=True):
    """A grant and who holds it: a tenant's slug, and the prefix of one of its keys unless it is the tenant's."""

    pattern: str
    tenant: str
    key: str | None


class ColdLoads(msgspec.Struct, frozen=True):
    """How often a backend had to load a model, and how long it took of its time for that model (microseconds)."""

    backend: str
    model: str
    requests: int
    cold: int
    load_us: int
    busy_us: int


class DoctorLook:
    """Reads; raises what the driver raises."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def grants(self) -> tuple[GrantLook, ...]:
        """Return every grant by which a key can be let in."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(_GRANTS)
        return tuple(GrantLook(row.pattern, row.slug, row.prefix) for row in rows)

    async def cold_loads(self, since: datetime) -> tuple[ColdLoads, ...]:
        """Return what loading cost on each backend, by model, for requests admitted since then."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(_LOADS, {"since": since, "cold_us": COLD_LOAD_US})
        return tuple(
            ColdLoads(row.backend, row.model, row.requests, row.cold, row.load_us, row.busy_us)
            for row in rows
        )

    async def clock(self) -> datetime:
        """Return the server's time."""
        async with self._engine.connect() as connection:
            told: datetime = (await connection.execute(_CLOCK)).scalar_one()
            return told
