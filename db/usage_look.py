"""What Postgres says when it is compared with everything else that knows of usage: rows by request, sums by hour."""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import msgspec
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db.usage_report import snapshot, sums_of
from db.usage_sums import KEYS, KEYS_OF_ROWS, SUMS, SUMS_OF_ROWS, SUMS_OF_SUMS
from domain.usage import UsageOutcome
from domain.usage_report import UsageGroup
from domain.usage_rows import UsageFilter
from domain.usage_spans import first_of_month
from domain.values import KeyId, RequestId, TenantId

_KEYS: Final = ", ".join(KEYS)
_SUMS: Final = ", ".join(SUMS)
_HOUR: Final = timedelta(hours=1)

# Each statement has one snapshot: a mark is committed with the rows it speaks of, and taken away with their sums.
_HOURS: Final = text(f"""
    WITH of_rows AS (
        SELECT date_trunc('hour', u.started_at, 'UTC') AS hour, {KEYS_OF_ROWS}, {SUMS_OF_ROWS}
        FROM usage_records AS u
        WHERE u.started_at >= :since AND u.started_at < :until
          AND u.period >= :first_period AND u.period <= :last_period
        GROUP BY 1, u.tenant_id, u.key_id, u.model, COALESCE(u.backend, ''), u.outcome
    ), of_sums AS (
        SELECT s.hour, {_KEYS}, {_SUMS} FROM usage_hourly AS s WHERE s.hour >= :since AND s.hour < :until
    ), differing AS (
        SELECT hour FROM (TABLE of_rows EXCEPT TABLE of_sums) AS only_rows
        UNION
        SELECT hour FROM (TABLE of_sums EXCEPT TABLE of_rows) AS only_sums
    )
    SELECT d.hour AS first, r.requests AS said, r.tokens AS tokens_said, s.requests, s.tokens
    FROM differing AS d
    CROSS JOIN LATERAL (SELECT COALESCE(sum(requests), 0)::bigint AS requests,
        COALESCE(sum(tokens_in + tokens_out), 0)::bigint AS tokens FROM of_rows WHERE hour = d.hour) AS r
    CROSS JOIN LATERAL (SELECT COALESCE(sum(requests), 0)::bigint AS requests,
        COALESCE(sum(tokens_in + tokens_out), 0)::bigint AS tokens FROM of_sums WHERE hour = d.hour) AS s
    WHERE d.hour NOT IN (SELECT t.hour FROM usage_touched_hours AS t)
      AND date_trunc('month', d.hour AT TIME ZONE 'UTC')::date
          NOT IN (SELECT p.period FROM usage_pruned_months AS p)
    ORDER BY 1
""")  # noqa: S608 - fragments of our own  # nosec B608
_DAYS: Final = text(f"""
    WITH of_hours AS (
        SELECT (s.hour AT TIME ZONE 'UTC')::date AS day, {_KEYS}, {SUMS_OF_SUMS}
        FROM usage_hourly AS s
        WHERE s.hour >= :since AND s.hour < :until
        GROUP BY 1, {_KEYS}
    ), of_days AS (
        SELECT s.day, {_KEYS}, {_SUMS} FROM usage_daily AS s WHERE s.day >= :first_day AND s.day <= :last_day
    ), differing AS (
        SELECT day FROM (TABLE of_hours EXCEPT TABLE of_days) AS only_hours
        UNION
        SELECT day FROM (TABLE of_days EXCEPT TABLE of_hours) AS only_days
    )
    SELECT d.day::timestamp AT TIME ZONE 'UTC' AS first,
        h.requests AS said, h.tokens AS tokens_said, s.requests, s.tokens
    FROM differing AS d
    CROSS JOIN LATERAL (SELECT COALESCE(sum(requests), 0)::bigint AS requests,
        COALESCE(sum(tokens_in + tokens_out), 0)::bigint AS tokens FROM of_hours WHERE day = d.day) AS h
    CROSS JOIN LATERAL (SELECT COALESCE(sum(requests), 0)::bigint AS requests,
        COALESCE(sum(tokens_in + tokens_out), 0)::bigint AS tokens FROM of_days WHERE day = d.day) AS s
    WHERE d.day NOT IN (SELECT (t.hour AT TIME ZONE 'UTC')::date FROM usage_touched_hours AS t)
    ORDER BY 1
""")  # noqa: S608 - fragments of our own  # nosec B608
_ROWS: Final = text("""
    SELECT u.request_id, u.key_id, u.outcome, u.tokens_in + u.tokens_out AS tokens, u.started_at, u.ended_at
    FROM usage_records AS u
    WHERE u.period = ANY(CAST(:periods AS date[])) AND u.request_id = ANY(CAST(:ids AS uuid[]))
""")
_BETWEEN: Final = text("""
    SELECT u.request_id, u.key_id, u.outcome, u.tokens_in + u.tokens_out AS tokens, u.started_at, u.ended_at
    FROM usage_records AS u
    WHERE u.tenant_id = :tenant_id AND u.started_at >= :since AND u.started_at < :until
      AND u.period >= :first_period AND u.period <= :last_period
""")
_PRUNED: Final = text("SELECT period FROM usage_pruned_months")


class SumUnit(StrEnum):
    """What sums are kept by."""

    HOUR = "hour"
    DAY = "day"


class SumDifference(msgspec.Struct, frozen=True):
    """An hour whose sums are not those of its rows, or a day whose sums are not those of its hours.

    `requests` and `tokens` are what the sums say, `true_requests` and `true_tokens` what they should say. All four
    may agree: then it is another column, or the sums are kept under other names.
    """

    unit: SumUnit
    first: datetime
    requests: int
    tokens: int
    true_requests: int
    true_tokens: int


class LedgerRow(msgspec.Struct, frozen=True):
    """What the row of one request says."""

    request_id: RequestId
    key_id: KeyId
    outcome: UsageOutcome
    tokens: int
    started_at: datetime
    ended_at: datetime


class UsageLook:
    """Reads the ledger for comparisons."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def sum_differences(self, since: datetime, until: datetime) -> tuple[SumDifference, ...]:
        """Return where sums and rows differ although nothing says that they are to be made anew.

        Parameters
        ----------
        since, until
            The hours and days that these moments touch count whole. Of months whose rows were dropped only days
            and hours are compared.
        """
        first = since.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        past = until.astimezone(UTC).replace(minute=0, second=0, microsecond=0) + _HOUR
        midnight, last_midnight = first.replace(hour=0), past.replace(hour=0) + timedelta(days=1)
        async with snapshot(self._engine) as connection:
            hours = await connection.execute(
                _HOURS,
                {
                    "since": first,
                    "until": past,
                    "first_period": first_of_month(first),
                    "last_period": first_of_month(past),
                },
            )
            days = await connection.execute(
                _DAYS,
                {
                    "since": midnight,
                    "until": last_midnight,
                    "first_day": midnight.date(),
                    "last_day": past.date(),
                },
            )
            return (
                *(_difference(SumUnit.HOUR, row) for row in hours),
                *(_difference(SumUnit.DAY, row) for row in days),
            )

    async def rows(self, ids: Iterable[RequestId], periods: Iterable[date]) -> dict[RequestId, LedgerRow]:
        """Return the rows there are of these requests, which were admitted in these months."""
        async with snapshot(self._engine) as connection:
            return await rows_of(connection, ids, periods)

    async def pruned_months(self) -> frozenset[date]:
        """Return the months whose rows were dropped by retention."""
        async with self._engine.connect() as connection:
            return frozenset((await connection.execute(_PRUNED)).scalars())


async def rows_of(
    connection: AsyncConnection, ids: Iterable[RequestId], periods: Iterable[date]
) -> dict[RequestId, LedgerRow]:
    """Return the rows there are of these requests, which were admitted in these months."""
    values = {"ids": list(ids), "periods": sorted(set(periods))}
    if not values["ids"]:
        return {}
    return {row.request_id: row for row in map(_row, await connection.execute(_ROWS, values))}


async def rows_between(
    connection: AsyncConnection, tenant_id: TenantId, since: datetime, until: datetime
) -> Sequence[LedgerRow]:
    """Return a tenant's rows of requests admitted from `since` up to, not including, `until`."""
    found = await connection.execute(
        _BETWEEN,
        {
            "tenant_id": tenant_id,
            "since": since,
            "until": until,
            "first_period": first_of_month(since),
            "last_period": first_of_month(until),
        },
    )
    return [_row(row) for row in found]


async def tokens_between(
    connection: AsyncConnection, tenant_id: TenantId, since: datetime, until: datetime
) -> dict[KeyId, int]:
    """Return the tokens of a tenant's requests admitted from `since` up to, not including, `until`, by key."""
    if since >= until:
        return {}
    found = await sums_of(connection, (UsageGroup.KEY,), UsageFilter(since, until, tenant_id))
    return {KeyId(row.key): row.tokens_in + row.tokens_out for row in found if not row.is_total}


def _difference(unit: SumUnit, row: Row[Any]) -> SumDifference:
    return SumDifference(unit, row.first, row.requests, row.tokens, row.said, row.tokens_said)


def _row(row: Row[Any]) -> LedgerRow:
    return LedgerRow(
        RequestId(row.request_id),
        KeyId(row.key_id),
        UsageOutcome(row.outcome),
        row.tokens,
        row.started_at,
        row.ended_at,
    )
