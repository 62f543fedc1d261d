"""What is made ahead of time and what is dropped with age: months of usage, old revocations, remembered creations.

Sums of usage and the audit trail are kept for ever.
"""

from datetime import date, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db.usage_roll_ups import LOCK
from db.usage_sums import KEYS, KEYS_OF_ROWS, SUMS, SUMS_OF_ROWS

MONTHS_AHEAD: Final = 2

# Everybody who reads or writes usage waits behind us for as long. It is more than deadlock_timeout (1 s),
# after which the server sends an autovacuum away that sits on the month.
LOCK_WAIT_S: Final = 1.5

_LOCK_NOT_AVAILABLE: Final = "55P03"

_MAKE_AHEAD: Final = text("""
    SELECT make_usage_partition(((now() AT TIME ZONE 'UTC') + make_interval(months => ahead))::date)
    FROM generate_series(0, :ahead) AS ahead
""")
_EXPIRED: Final = text("""
    SELECT month.period
    FROM pg_inherits AS i
    JOIN pg_class AS c ON c.oid = i.inhrelid
    CROSS JOIN LATERAL (SELECT to_date(right(c.relname, 7), 'YYYY_MM') AS period) AS month
    WHERE i.inhparent = 'usage_records'::regclass AND c.relname ~ '^usage_records_[0-9]{4}_[0-9]{2}$'
      AND month.period < date_trunc('month', now() AT TIME ZONE 'UTC') - make_interval(months => :keep_months)
    ORDER BY month.period
""")
_TAKE_LOCK: Final = text(f"SELECT pg_advisory_xact_lock({LOCK})")
# The order in which DROP would take them itself, so that it cannot meet a writer half-way.
_STOP_TRAFFIC: Final = text("LOCK TABLE ONLY usage_records IN ACCESS EXCLUSIVE MODE")
_IS_TOUCHED: Final = text("""
    SELECT EXISTS (
        SELECT FROM usage_touched_hours
        WHERE hour >= CAST(:period AS date)::timestamp AT TIME ZONE 'UTC'
          AND hour < (CAST(:period AS date) + interval '1 month') AT TIME ZONE 'UTC'
    )
""")
_NOTE_PRUNED: Final = text("""
    INSERT INTO usage_pruned_months (period) VALUES (:period) ON CONFLICT (period) DO NOTHING
""")
_DROP: Final = text("SELECT drop_usage_partition(CAST(:period AS date))")
_DELETE_REVOCATIONS: Final = text("""
    DELETE FROM revocations
    WHERE at < now() - CAST(:age AS interval) AND seq < (SELECT max(r.seq) FROM revocations AS r)
""")
_FORGET_CREATIONS: Final = text("""
    DELETE FROM remembered_creations WHERE at < now() - CAST(:age AS interval)
""")


def _add_late_rows(table: str, column: str, unit: str) -> str:
    """Return the statement that adds the rows of a month to the sums that exist of it."""
    keys = ", ".join((column, *KEYS))
    return f"""
        INSERT INTO {table} ({keys}, {", ".join(SUMS)})
        SELECT {unit}, {KEYS_OF_ROWS}, {SUMS_OF_ROWS} FROM usage_records AS u WHERE u.period = :period
        GROUP BY {unit}, u.tenant_id, u.key_id, u.model, COALESCE(u.backend, ''), u.outcome
        ON CONFLICT ({keys}) DO UPDATE
        SET {", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in SUMS)}
    """  # noqa: S608 - fragments of our own  # nosec B608


_ADD_LATE_ROWS: Final = (
    text(_add_late_rows("usage_hourly", "hour", "date_trunc('hour', u.started_at, 'UTC')")),
    text(_add_late_rows("usage_daily", "day", "(u.started_at AT TIME ZONE 'UTC')::date")),
)


class Retention:
    """Partitions of the ledger and rows of the revocation sequence, by the database's own clock.

    `lock_wait_s` is how long everybody else may be held up for a month to be dropped.
    """

    def __init__(self, engine: AsyncEngine, *, lock_wait_s: float = LOCK_WAIT_S) -> None:
        self._engine = engine
        self._wait_briefly = text(f"SET LOCAL lock_timeout = '{lock_wait_s}s'")

    async def make_months_ahead(self) -> None:
        """Make the partitions of this month and of the next two where they are missing."""
        async with self._engine.begin() as connection:
            await connection.execute(_MAKE_AHEAD, {"ahead": MONTHS_AHEAD})

    async def expired_months(self, keep_months: int) -> tuple[date, ...]:
        """Return the months that have rows although more than `keep_months` whole months followed them."""
        async with self._engine.connect() as connection:
            return tuple((await connection.execute(_EXPIRED, {"keep_months": keep_months})).scalars())

    async def drop_month(self, period: date) -> bool:
        """Drop the rows of a month whose sums are made; return False if it has to be tried again.

        That is so while sums are missing, or while readers and writers do not leave the table within
        `lock_wait_s`. Rows that came after the month was dropped are added to its sums as they are dropped.
        """
        try:
            async with self._engine.begin() as connection:
                return await self._drop(connection, period)
        except DBAPIError as exc:
            if getattr(exc.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
                return False
            raise

    async def _drop(self, connection: AsyncConnection, period: date) -> bool:
        values = {"period": period}
        await connection.execute(self._wait_briefly)
        await connection.execute(_TAKE_LOCK)
        await connection.execute(_STOP_TRAFFIC)
        if (await connection.execute(_IS_TOUCHED, values)).scalar_one():
            return False
        if not (await connection.execute(_NOTE_PRUNED, values)).rowcount:
            for statement in _ADD_LATE_ROWS:
                await connection.execute(statement, values)
        await connection.execute(_DROP, values)
        return True

    async def delete_revocations(self, age: timedelta) -> int:
        """Delete revocations above an age, except the newest, from which numbers are counted; return how many."""
        async with self._engine.begin() as connection:
            return int((await connection.execute(_DELETE_REVOCATIONS, {"age": age})).rowcount)

    async def forget_creations(self, age: timedelta) -> int:
        """Forget which creations above an age were asked for with which idempotency key; return how many."""
        async with self._engine.begin() as connection:
            return int((await connection.execute(_FORGET_CREATIONS, {"age": age})).rowcount)
