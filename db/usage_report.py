"""Reading sums of usage: from the sums by day and hour where they are up to date, from rows where not.

A report is the same whether the sums exist or not; they only make it quick. Once the rows of a month are dropped,
an hour that the report's ends cut through counts for nothing: no row is left to tell on which side it fell.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db.usage_sums import SUMS_OF_ROWS, SUMS_OF_SUMS
from domain.usage_report import UsageGroup, UsageReport, UsageSum
from domain.usage_spans import Cover, Span, cover
from domain.values import KeyId, RequestId, TenantId

_LABELS: Final = {
    UsageGroup.TENANT: "COALESCE((SELECT t.slug FROM tenants AS t WHERE t.id = s.subject), s.subject::text)",
    UsageGroup.KEY: "COALESCE((SELECT k.prefix FROM api_keys AS k WHERE k.id = s.subject), s.subject::text)",
    UsageGroup.MODEL: "s.subject",
    UsageGroup.DAY: "s.subject::text",
    UsageGroup.BACKEND: "s.subject",
    UsageGroup.OUTCOME: "s.subject::text",
}
# Of rows, of sums by hour, of sums by day.
_SUBJECTS: Final = {
    UsageGroup.TENANT: ("u.tenant_id", "s.tenant_id", "s.tenant_id"),
    UsageGroup.KEY: ("u.key_id", "s.key_id", "s.key_id"),
    UsageGroup.MODEL: ("u.model", "s.model", "s.model"),
    UsageGroup.DAY: (
        "(u.started_at AT TIME ZONE 'UTC')::date",
        "(s.hour AT TIME ZONE 'UTC')::date",
        "s.day",
    ),
    UsageGroup.BACKEND: ("COALESCE(u.backend, '')", "s.backend", "s.backend"),
    UsageGroup.OUTCOME: ("u.outcome", "s.outcome", "s.outcome"),
}
_LONGEST_PERIOD: Final = timedelta(days=62)
# The server takes months that it will not read for costly and compiles: most of a second, for milliseconds of work.
NO_JIT: Final = text("SET LOCAL jit = off")
_TOUCHED: Final = text("""
    SELECT DISTINCT hour FROM usage_touched_hours
    WHERE hour >= date_trunc('hour', CAST(:since AS timestamptz), 'UTC') AND hour < :until
""")
_SPENT_BY: Final = text("""
    SELECT u.key_id, sum(u.tokens_in + u.tokens_out)::bigint AS tokens
    FROM usage_records AS u
    WHERE u.request_id = ANY(CAST(:ids AS uuid[])) AND u.tenant_id = :tenant_id
      AND u.started_at >= :since AND u.started_at < :until
      AND u.period >= date_trunc('month', CAST(:since AS timestamptz) AT TIME ZONE 'UTC')::date
    GROUP BY u.key_id
""")


async def read_report(
    engine: AsyncEngine,
    group_by: UsageGroup,
    *,
    since: datetime,
    until: datetime,
    tenant_id: TenantId | None = None,
) -> UsageReport:
    """Return the sums over requests admitted from `since` up to, not including, `until`.

    Parameters
    ----------
    group_by
        What one line stands for.
    tenant_id
        Whose requests; None means everybody's, which is for operators.
    """
    async with snapshot(engine) as connection:
        found = await sums_of(connection, group_by, since=since, until=until, tenant_id=tenant_id)
    *lines, total = (_line(row) for row in found)
    return UsageReport(tuple(lines), total)


async def read_spent(
    engine: AsyncEngine,
    tenant_id: TenantId,
    *,
    since: Collection[datetime],
    without: Collection[RequestId] = (),
) -> dict[datetime, dict[KeyId, int]]:
    """Return the tokens, in and out, of a tenant's requests admitted since each of some moments, by key.

    All answers are of one snapshot. Every request in the ledger counts, however it ended.

    Parameters
    ----------
    since
        The beginnings of quotas' periods: not longer ago than 62 days.
    without
        Requests that do not count, whether the ledger has them or not.
    """
    spent: dict[datetime, dict[KeyId, int]] = {}
    async with snapshot(engine) as connection:
        for moment in set(since):
            # An end well beyond now: app processes may stamp admissions with clocks that are ahead of anybody's.
            until = moment + _LONGEST_PERIOD
            found = await sums_of(connection, UsageGroup.KEY, since=moment, until=until, tenant_id=tenant_id)
            by_key = {KeyId(row.subject): row.tokens_in + row.tokens_out for row in found if not row.is_total}
            if without:
                values = {"since": moment, "until": until, "tenant_id": tenant_id, "ids": list(without)}
                for row in (await connection.execute(_SPENT_BY, values)).all():
                    key_id = KeyId(row.key_id)
                    by_key[key_id] = max(0, by_key.get(key_id, 0) - row.tokens)
            spent[moment] = by_key
    return spent


@asynccontextmanager
async def snapshot(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open one snapshot: an hour that is summed between two questions must not count twice or not at all."""
    snapshots = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    async with snapshots.connect() as connection:
        await connection.execute(NO_JIT)
        yield connection


async def sums_of(
    connection: AsyncConnection,
    group_by: UsageGroup,
    *,
    since: datetime,
    until: datetime,
    tenant_id: TenantId | None,
) -> Sequence[Row[Any]]:
    """Return one row for each subject, and the total as the last one."""
    touched = await connection.execute(_TOUCHED, {"since": since, "until": until})
    values = report_values(cover(since, until, touched.scalars().all()))
    if tenant_id is not None:
        values["tenant_id"] = tenant_id
    statement = report_statement(group_by, of_one_tenant=tenant_id is not None)
    return (await connection.execute(statement, values)).all()


def report_statement(group_by: UsageGroup, *, of_one_tenant: bool) -> TextClause:
    """Return the statement of a report. Its parameters are the ends of the pieces, and the tenant if it is one.

    Each piece is one range of an index, hence LATERAL: a join could read a whole table to find a few hours.
    """
    of_rows, of_hours, of_days = _SUBJECTS[group_by]
    tenant = "= :tenant_id" if of_one_tenant else "IS NOT NULL"
    # The period is the partition key: without it every month would be read. As a range it would be taken for a
    # narrow one, and looked up in the primary key for nothing. GROUPING SETS adds the total.
    return text(f"""
        SELECT CASE WHEN s.is_total THEN 'total' ELSE {_LABELS[group_by]} END AS label, s.*
        FROM (
            SELECT s.subject, GROUPING(s.subject) = 1 AS is_total, {SUMS_OF_SUMS}
            FROM (
                SELECT part.* FROM unnest(CAST(:row_firsts AS timestamptz[]), CAST(:row_pasts AS timestamptz[]))
                    AS piece (first, past), LATERAL generate_series(
                        date_trunc('month', piece.first AT TIME ZONE 'UTC'), piece.past AT TIME ZONE 'UTC',
                        interval '1 month'
                    ) AS month (first), LATERAL (
                        SELECT {of_rows} AS subject, {SUMS_OF_ROWS} FROM usage_records AS u
                        WHERE u.period = month.first::date
                          AND u.started_at >= piece.first AND u.started_at < piece.past AND u.tenant_id {tenant}
                        GROUP BY 1
                    ) AS part
                UNION ALL
                SELECT part.* FROM unnest(CAST(:hour_firsts AS timestamptz[]), CAST(:hour_pasts AS timestamptz[]))
                    AS piece (first, past), LATERAL (
                        SELECT {of_hours} AS subject, {SUMS_OF_SUMS} FROM usage_hourly AS s
                        WHERE s.hour >= piece.first AND s.hour < piece.past AND s.tenant_id {tenant}
                        GROUP BY 1
                    ) AS part
                UNION ALL
                SELECT part.* FROM unnest(CAST(:day_firsts AS date[]), CAST(:day_pasts AS date[]))
                    AS piece (first, past), LATERAL (
                        SELECT {of_days} AS subject, {SUMS_OF_SUMS} FROM usage_daily AS s
                        WHERE s.day >= piece.first AND s.day < piece.past AND s.tenant_id {tenant}
                        GROUP BY 1
                    ) AS part
            ) AS s
            GROUP BY GROUPING SETS ((s.subject), ())
        ) AS s
        ORDER BY s.is_total, label
    """)  # noqa: S608 - fragments of our own, chosen by an enum  # nosec B608


def report_values(found: Cover) -> dict[str, object]:
    """Return the parameters of a report's statement that name its pieces."""
    days = [(_date(piece.first), _date(piece.past)) for piece in found.days]
    return {
        **_ends("row", found.rows),
        **_ends("hour", found.hours),
        "day_firsts": [first for first, _ in days],
        "day_pasts": [past for _, past in days],
    }


def _ends(name: str, pieces: tuple[Span, ...]) -> dict[str, object]:
    return {
        f"{name}_firsts": [piece.first for piece in pieces],
        f"{name}_pasts": [piece.past for piece in pieces],
    }


def _date(midnight: datetime) -> date:
    return midnight.astimezone(UTC).date()


def _line(row: Row[Any]) -> UsageSum:
    return UsageSum(
        label=row.label,
        requests=row.requests,
        tokens_in=row.tokens_in,
        tokens_out=row.tokens_out,
        tokens_cached=row.tokens_cached,
        estimated_requests=row.estimated_requests,
        busy_us=row.load_us + row.prompt_us + row.eval_us,
    )
