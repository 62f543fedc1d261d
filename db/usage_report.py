"""Reading sums of usage: from the sums by day and hour where they are up to date, from rows where not.

A report is the same whether the sums exist or not; they only make it quick. Once the rows of a month are dropped,
an hour that the report's ends cut through counts for nothing: no row is left to tell on which side it fell.
"""

from bisect import bisect_left
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db.usage_sums import SUMS_OF_ROWS, SUMS_OF_SUMS
from domain.usage_buckets import Bucket, buckets, count_bound
from domain.usage_report import (
    TIME_UNITS,
    GroupedSum,
    TooManySums,
    UsageCounts,
    UsageGroup,
    UsageReport,
    UsageSum,
    UsageSums,
)
from domain.usage_rows import UsageFilter
from domain.usage_spans import HOUR, Span, cover
from domain.values import KeyId, RequestId, TenantId

_LABELS: Final = {
    UsageGroup.TENANT: "COALESCE((SELECT t.slug FROM tenants AS t WHERE t.id = s.tenant), s.tenant::text)",
    UsageGroup.KEY: "COALESCE((SELECT k.prefix FROM api_keys AS k WHERE k.id = s.key), s.key::text)",
    UsageGroup.MODEL: "s.model",
    UsageGroup.BACKEND: "s.backend",
    UsageGroup.OUTCOME: "s.outcome::text",
    **dict.fromkeys(TIME_UNITS, "s.bucket"),
}
# Of rows `u`, and of sums `s`.
_SUBJECTS: Final = {
    UsageGroup.TENANT: ("u.tenant_id", "s.tenant_id"),
    UsageGroup.KEY: ("u.key_id", "s.key_id"),
    UsageGroup.MODEL: ("u.model", "s.model"),
    UsageGroup.BACKEND: ("COALESCE(u.backend, '')", "s.backend"),
    UsageGroup.OUTCOME: ("u.outcome", "s.outcome"),
}
# Fields of a filter: the thing they name, and the type of their parameter.
_FILTERS: Final = {
    "tenant_id": (UsageGroup.TENANT, "uuid"),
    "key_id": (UsageGroup.KEY, "uuid"),
    "model": (UsageGroup.MODEL, "text"),
    "backend": (UsageGroup.BACKEND, "text"),
    "outcome": (UsageGroup.OUTCOME, "usage_outcome"),
}
_LONGEST_PERIOD: Final = timedelta(days=62)
# The server takes months that it will not read for costly and compiles: most of a second, for milliseconds of work.
NO_JIT: Final = text("SET LOCAL jit = off")
_TOUCHED: Final = text("""
    SELECT DISTINCT hour FROM usage_touched_hours
    WHERE hour >= date_trunc('hour', CAST(:since AS timestamptz), 'UTC') AND hour < :until
""")
# Where the ledger begins and ends: by whole months of rows, and by days of sums, which outlive them.
_EXTENT: Final = text("""
    SELECT LEAST((SELECT min(period) FROM usage_records), (SELECT min(day) FROM usage_daily))::timestamp
               AT TIME ZONE 'UTC' AS first,
        GREATEST(
            (SELECT max(period) FROM usage_records) + interval '1 month',
            (SELECT max(day) FROM usage_daily) + interval '1 day'
        ) AT TIME ZONE 'UTC' AS past
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
    time_zone: str = "UTC",
) -> UsageReport:
    """Return the sums over requests admitted from `since` up to, not including, `until`.

    Parameters
    ----------
    group_by
        What one line stands for.
    tenant_id
        Whose requests; None means everybody's, which is for operators.
    time_zone
        Whose days and months.
    """
    found = await read_sums(engine, (group_by,), UsageFilter(since, until, tenant_id), time_zone=time_zone)
    lines = [UsageSum(label=line.labels[0], **_counts(line)) for line in found.lines]
    return UsageReport(tuple(lines), UsageSum(label="total", **_counts(found.total)))


async def read_sums(
    engine: AsyncEngine,
    by: Sequence[UsageGroup],
    wanted: UsageFilter,
    *,
    time_zone: str = "UTC",
    at_most: int | None = None,
) -> UsageSums:
    """Return the sums over the requests that a filter names.

    Parameters
    ----------
    by
        What one line stands for: any of the groups, of `TIME_UNITS` one at most.
    wanted
        Which requests count.
    time_zone
        Whose days and months.
    at_most
        How many lines may come.

    Raises
    ------
    TooManySums
        There are more.
    """
    async with snapshot(engine) as connection:
        total, *lines = await sums_of(connection, by, wanted, time_zone=time_zone, at_most=at_most)
    if at_most is not None and len(lines) > at_most:
        raise TooManySums
    return UsageSums(
        tuple(GroupedSum(labels=_labels(row, by), **_counts(row)) for row in lines) if by else (),
        UsageCounts(**_counts(total)),
    )


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
            found = await sums_of(connection, (UsageGroup.KEY,), UsageFilter(moment, until, tenant_id))
            by_key = {KeyId(row.key): row.tokens_in + row.tokens_out for row in found if not row.is_total}
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
    by: Sequence[UsageGroup],
    wanted: UsageFilter,
    *,
    time_zone: str = "UTC",
    at_most: int | None = None,
) -> Sequence[Row[Any]]:
    """Return the total as the first row, and then one row for each combination of what is grouped by.

    At most one line more than `at_most` is read. Raises `TooManySums` where the hours or days alone are too many.
    """
    span = Span(wanted.since, wanted.until)
    unit = next((group for group in by if group in TIME_UNITS), None)
    if unit is not None:
        span = await _within_ledger(connection, span)
        if at_most is not None and count_bound(span, unit) > at_most:
            raise TooManySums
    touched = await connection.execute(_TOUCHED, {"since": span.first, "until": span.past})
    values = report_values(buckets(span, unit, time_zone), touched.scalars().all())
    filters = {name: value for name in _FILTERS if (value := getattr(wanted, name)) is not None}
    statement = report_statement(by, filters, at_most=at_most)
    return (await connection.execute(statement, values | filters)).all()


async def _within_ledger(connection: AsyncConnection, span: Span) -> Span:
    """Return what of a span the ledger can know anything of: all time has too many days to look at each."""
    extent = (await connection.execute(_EXTENT)).one()
    if extent.first is None:
        return Span(span.first, span.first)
    first = max(span.first, extent.first)
    return Span(first, max(first, min(span.past, extent.past)))


def report_statement(
    by: Sequence[UsageGroup], filters: Collection[str] = (), *, at_most: int | None = None
) -> TextClause:
    """Return the statement of a report. Its parameters are those of `report_values`, and the filters by name.

    Each piece is one range of an index, hence LATERAL: a join could read a whole table to find a few hours.
    """
    groups = [group for group in by if group not in TIME_UNITS]
    names = ", ".join(["s.bucket", *(f"s.{group.value}" for group in groups)])
    labels = "".join(f", {_LABELS[group]} AS {group.value}_label" for group in by)
    order = "".join(f", {group.value}_label" for group in by)
    # The period is the partition key: without it every month would be read. As a range it would be taken for a
    # narrow one, and looked up in the primary key for nothing. GROUPING SETS adds the total.
    return text(f"""
        SELECT s.*{labels}
        FROM (
            SELECT {names}, GROUPING(s.bucket) = 1 AS is_total, {SUMS_OF_SUMS}
            FROM (
                SELECT piece.bucket, part.* FROM {_pieces("row", "timestamptz")}, LATERAL generate_series(
                        date_trunc('month', piece.first AT TIME ZONE 'UTC'), piece.past AT TIME ZONE 'UTC',
                        interval '1 month'
                    ) AS month (first), LATERAL (
                        SELECT {_subjects(groups, of_rows=True)}{SUMS_OF_ROWS} FROM usage_records AS u
                        WHERE u.period = month.first::date
                          AND u.started_at >= piece.first AND u.started_at < piece.past
                          {_conditions(filters, of_rows=True)} {_group_by(groups)}
                    ) AS part
                UNION ALL
                SELECT piece.bucket, part.* FROM {_pieces("hour", "timestamptz")}, LATERAL (
                        SELECT {_subjects(groups, of_rows=False)}{SUMS_OF_SUMS} FROM usage_hourly AS s
                        WHERE s.hour >= piece.first AND s.hour < piece.past
                          {_conditions(filters, of_rows=False)} {_group_by(groups)}
                    ) AS part
                UNION ALL
                SELECT piece.bucket, part.* FROM {_pieces("day", "date")}, LATERAL (
                        SELECT {_subjects(groups, of_rows=False)}{SUMS_OF_SUMS} FROM usage_daily AS s
                        WHERE s.day >= piece.first AND s.day < piece.past
                          {_conditions(filters, of_rows=False)} {_group_by(groups)}
                    ) AS part
            ) AS s
            WHERE s.requests > 0
            GROUP BY GROUPING SETS (({names}), ())
        ) AS s
        ORDER BY s.is_total DESC{order}
        {"" if at_most is None else f"LIMIT {at_most + 2:d}"}
    """)  # noqa: S608 - fragments of our own, chosen by enums  # nosec B608


def _pieces(name: str, kind: str) -> str:
    arrays = (
        f"CAST(:{name}_firsts AS {kind}[]), CAST(:{name}_pasts AS {kind}[]), CAST(:{name}_buckets AS text[])"
    )
    return f"unnest({arrays}) AS piece (first, past, bucket)"


def _subjects(groups: Sequence[UsageGroup], *, of_rows: bool) -> str:
    chosen = ((group.value, _SUBJECTS[group][0 if of_rows else 1]) for group in groups)
    return "".join(f"{subject} AS {name}, " for name, subject in chosen)


def _group_by(groups: Sequence[UsageGroup]) -> str:
    places = ", ".join(str(place) for place in range(1, len(groups) + 1))
    return f"GROUP BY {places}" if places else ""


def _conditions(filters: Collection[str], *, of_rows: bool) -> str:
    chosen = ((name, *_FILTERS[name]) for name in filters)
    return " ".join(
        f"AND {_SUBJECTS[group][0 if of_rows else 1]} = CAST(:{name} AS {kind})"
        for name, group, kind in chosen
    )


def report_values(pieces: Iterable[Bucket], touched: Collection[datetime]) -> dict[str, object]:
    """Return the parameters of a report's statement that name its pieces of time.

    Parameters
    ----------
    pieces
        What the lines stand for, in the order of time.
    touched
        Hours whose sums are not up to date, by their beginning.
    """
    found: dict[str, list[tuple[object, object, str]]] = {"row": [], "hour": [], "day": []}
    stale = sorted(touched)
    for bucket in pieces:
        first, past = bucket.span.first, bucket.span.past
        place = bisect_left(stale, first)
        if place and stale[place - 1] + HOUR > first:
            place -= 1  # an hour that the bucket cuts into is stale to it as well
        parts = cover(first, past, stale[place : bisect_left(stale, past)])
        found["row"] += [(piece.first, piece.past, bucket.label) for piece in parts.rows]
        found["hour"] += [(piece.first, piece.past, bucket.label) for piece in parts.hours]
        found["day"] += [(_date(piece.first), _date(piece.past), bucket.label) for piece in parts.days]
    return {
        f"{name}_{what}": [piece[place] for piece in parts]
        for name, parts in found.items()
        for place, what in enumerate(("firsts", "pasts", "buckets"))
    }


def _date(midnight: datetime) -> date:
    return midnight.astimezone(UTC).date()


def _labels(row: Row[Any], by: Sequence[UsageGroup]) -> tuple[str, ...]:
    return tuple(getattr(row, f"{group.value}_label") for group in by)


def _counts(row: Any) -> dict[str, int]:
    """Return the fields of `UsageCounts`, from such a value or from a row."""
    if isinstance(row, UsageCounts):
        return {name: getattr(row, name) for name in UsageCounts.__struct_fields__}
    return {
        "requests": row.requests,
        "tokens_in": row.tokens_in,
        "tokens_out": row.tokens_out,
        "tokens_cached": row.tokens_cached,
        "estimated_requests": row.estimated_requests,
        "busy_us": row.load_us + row.prompt_us + row.eval_us,
    }
