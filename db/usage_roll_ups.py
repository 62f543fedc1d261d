"""Sums of the ledger by hour and day, made from the rows of whole hours and replaced as a whole.

A trigger marks each hour whose rows change, in the transaction that changes them. Making an hour's sums takes the
marks away first and reads the rows afterwards: every mark it takes speaks of rows it sees, and what is committed
later leaves a mark that stays. So it does not matter how late a row comes, or who wrote it.
"""

from datetime import UTC, date, datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db.usage_sums import KEYS, KEYS_OF_ROWS, SUMS, SUMS_OF_ROWS, SUMS_OF_SUMS
from domain.usage_spans import first_of_month

LOCK: Final = int.from_bytes(b"nng_roll")
"""The advisory lock of whoever writes sums."""

_COLUMNS: Final = ", ".join((*KEYS, *SUMS))
_KEYS: Final = ", ".join(KEYS)

# To compile statements (jit) would take longer than to run them.
_TAKE_LOCK: Final = text(f"SELECT pg_advisory_xact_lock({LOCK}), set_config('jit', 'off', true)")
_TOUCHED: Final = text("SELECT DISTINCT hour FROM usage_touched_hours ORDER BY hour")
_TAKE_MARKS: Final = text("DELETE FROM usage_touched_hours WHERE hour = :hour")
_IS_PRUNED: Final = text("SELECT EXISTS (SELECT FROM usage_pruned_months WHERE period = :period)")
_PRUNED: Final = text("""
    SELECT period FROM usage_pruned_months
    WHERE period >= :first_period AND period <= :last_period ORDER BY period
""")
_SUM_HOUR: Final = (
    text("DELETE FROM usage_hourly WHERE hour = :hour"),
    text(f"""
        INSERT INTO usage_hourly (hour, {_COLUMNS})
        SELECT :hour, {KEYS_OF_ROWS}, {SUMS_OF_ROWS}
        FROM usage_records AS u
        WHERE u.period = :period AND u.started_at >= :hour AND u.started_at < :next_hour
        GROUP BY u.tenant_id, u.key_id, u.model, COALESCE(u.backend, ''), u.outcome
    """),  # noqa: S608 - fragments of our own  # nosec B608
    text("DELETE FROM usage_daily WHERE day = :day"),
    text(f"""
        INSERT INTO usage_daily (day, {_COLUMNS})
        SELECT :day, {_KEYS}, {SUMS_OF_SUMS}
        FROM usage_hourly AS s
        WHERE s.hour >= :midnight AND s.hour < :next_midnight
        GROUP BY {_KEYS}
    """),  # noqa: S608 - fragments of our own  # nosec B608
)
_MARK: Final = text("""
    INSERT INTO usage_touched_hours (hour)
    SELECT found.hour
    FROM (
        SELECT s.hour FROM usage_hourly AS s
        WHERE s.hour >= date_trunc('hour', CAST(:since AS timestamptz), 'UTC') AND s.hour < :until
        UNION
        SELECT date_trunc('hour', u.started_at, 'UTC') FROM usage_records AS u
        WHERE u.started_at >= :since AND u.started_at < :until
          AND u.period >= :first_period AND u.period <= :last_period
    ) AS found (hour)
    WHERE date_trunc('month', found.hour AT TIME ZONE 'UTC')::date
          NOT IN (SELECT p.period FROM usage_pruned_months AS p)
""")


class UsageRollUps:
    """The tables `usage_hourly` and `usage_daily`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def touched(self) -> tuple[datetime, ...]:
        """Return the hours whose sums are behind their rows, oldest first."""
        async with self._engine.connect() as connection:
            return tuple((await connection.execute(_TOUCHED)).scalars())

    async def roll_up(self, hour: datetime) -> bool:
        """Make the sums of one hour, and of its day, anew; return False if they were up to date.

        Safe to repeat and to run in several places at once: one works, the others find nothing left to do.
        Sums of a month that was dropped stay as they are.
        """
        hour = hour.astimezone(UTC)
        midnight = hour.replace(hour=0)
        values = {
            "hour": hour,
            "next_hour": hour + timedelta(hours=1),
            "period": first_of_month(hour),
            "day": hour.date(),
            "midnight": midnight,
            "next_midnight": midnight + timedelta(days=1),
        }
        async with self._engine.begin() as connection:
            await connection.execute(_TAKE_LOCK)
            taken = await connection.execute(_TAKE_MARKS, {"hour": hour})
            if not taken.rowcount or (await connection.execute(_IS_PRUNED, values)).scalar_one():
                return False
            for statement in _SUM_HOUR:
                await connection.execute(statement, values)
        return True

    async def mark(self, since: datetime, until: datetime) -> int:
        """Mark every hour of a span whose sums can be made from rows; return how many. The next run makes them.

        This is how sums are rebuilt. Hours of dropped months are left out: nothing could be made anew.
        """
        async with self._engine.begin() as connection:
            return await mark_hours(connection, since, until)

    async def pruned(self, since: datetime, until: datetime) -> tuple[date, ...]:
        """Return the months of a span whose rows were dropped, oldest first: their sums are all there is."""
        async with self._engine.connect() as connection:
            return tuple((await connection.execute(_PRUNED, _periods(since, until))).scalars())


async def mark_hours(connection: AsyncConnection, since: datetime, until: datetime) -> int:
    """Mark the hours of a span within the connection's transaction, as `UsageRollUps.mark` does."""
    values = {"since": since, "until": until, **_periods(since, until)}
    return int((await connection.execute(_MARK, values)).rowcount)


def _periods(since: datetime, until: datetime) -> dict[str, date]:
    """Return the months that the time from `since` up to, not including, `until` touches."""
    return {
        "first_period": first_of_month(since),
        "last_period": first_of_month(until - timedelta.resolution),
    }
