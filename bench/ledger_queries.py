"""How quick the ledger is with many rows: reports, roll-ups, writes, and dropping a month.

    uv run python -m bench.ledger_queries --rows 10000000

Prints a Markdown page. Everything happens in a server of its own under the temporary directory, which takes about
half a kilobyte of disk for each row and is removed at the end.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from uuid_utils.compat import uuid7

from db import migrate
from db.postgres import create_engine
from db.retention import Retention
from db.usage import UsageRows
from db.usage_report import NO_JIT, report_statement, report_values
from db.usage_roll_ups import UsageRollUps
from domain.usage import Admission, Durations, Settlement, UsageOutcome, UsageRecord
from domain.usage_buckets import buckets
from domain.usage_report import UsageGroup, UsageReport
from domain.usage_spans import DAY, HOUR, Span, first_of_month
from domain.values import ApiFamily, KeyId, RequestId, TenantId
from tests.support.other_postgres import OLDEST, installed, running_other_postgres
from tests.support.servers import running_postgres

DAYS: Final = 92
END: Final = datetime(2031, 6, 1, tzinfo=UTC)
BEGIN: Final = END - DAYS * DAY
REPEATS: Final = 7
CHUNK: Final = 250_000

# 50 tenants of 4 keys, each key with 2 of 20 models, 4 backends. Rows arrive up to ten minutes after one another's
# order, as journals ship them.
_FILL: Final = text("""
    INSERT INTO usage_records
    SELECT date_trunc('month', at AT TIME ZONE 'UTC')::date,
        (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
            || '7' || substr(md5(random()::text), 1, 19))::uuid,
        md5('t' || key % 50)::uuid, md5('k' || key)::uuid, 'model-' || (key * 7 + pick) % 20 || '-8b', repeat('a', 64),
        'native', '/api/chat', 'gpu-' || (key + pick) % 4, 1, ARRAY['gpu-' || (key + pick) % 4],
        (CASE WHEN luck < 0.95 THEN 'completed' WHEN luck < 0.98 THEN 'client_closed' ELSE 'cut' END)::usage_outcome,
        200 + (luck * 4000)::bigint, (luck * 900)::bigint, 0, luck > 0.95,
        (luck * 1e5)::bigint, (luck * 1e5)::bigint, (luck * 3e5)::bigint, (luck * 9e6)::bigint, 400000,
        (luck * 1e7)::bigint, at, at + interval '10 seconds', NULL
    FROM (
        SELECT CAST(:begin AS timestamptz) + (n::float8 / :rows) * CAST(:width AS interval)
                - least(random() * 600, n::float8 / :rows * :seconds) * interval '1 second' AS at,
            (random() * 199)::int AS key, (random() < 0.3)::int AS pick, random() AS luck
        FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
    ) AS drawn
""")

_ADD_TENANTS: Final = text("""
    INSERT INTO tenants (id, slug, name)
    SELECT md5('t' || n)::uuid, 'tenant-' || n, 'T' FROM generate_series(0, 49) AS n
""")


async def main(rows: int, *, oldest: bool) -> None:
    """Fill a database with so many rows and print what the ledger takes on it."""
    programs = installed(OLDEST)
    if oldest and programs is None:
        raise SystemExit(f"PostgreSQL {OLDEST}, the oldest supported release, is not installed here.")
    with running_other_postgres(programs) if oldest and programs else running_postgres() as databases:
        url = databases.create()
        await migrate.upgrade(url)
        engine = create_engine(url, application_name="bench", statement_timeout_s=600)
        try:
            await measure(engine, rows)
        finally:
            await engine.dispose()


async def measure(engine: AsyncEngine, rows: int) -> None:
    """Print every part of the page."""
    filled_s = await seconds(lambda: fill(engine, rows))
    print(f"Server: {await one(engine, 'SELECT version()')}")
    print(f"shared_buffers {await one(engine, 'SHOW shared_buffers')}, jit {await one(engine, 'SHOW jit')}\n")
    kept = await one(engine, "SELECT count(*) FROM usage_records")
    print(f"Rows: {kept} over {DAYS} days, {await size(engine)} with indexes; filled in {filled_s:.0f} s.\n")
    before = await reports(engine)
    await roll_up(engine)
    after = await reports(engine)
    print_reports(before, after)
    await write(engine)
    await explain(engine)
    await drop(engine)


async def fill(engine: AsyncEngine, rows: int) -> None:
    """Write the rows as batches of one transaction each, then let the server settle as autovacuum would."""
    months = sorted({first_of_month(BEGIN + day * DAY) for day in range(-1, DAYS + 1)})
    await UsageRows(engine).make_months(months)
    async with engine.begin() as connection:
        await connection.execute(_ADD_TENANTS)
    for first in range(1, rows + 1, CHUNK):
        async with engine.begin() as connection:
            await connection.execute(
                _FILL,
                {
                    "begin": BEGIN,
                    "rows": float(rows),
                    "width": END - BEGIN - timedelta(seconds=1),
                    "seconds": float(DAYS * 86_400),
                    "first": first,
                    "last": min(first + CHUNK - 1, rows),
                },
            )
    await vacuum(engine)


async def vacuum(engine: AsyncEngine) -> None:
    """Do now what autovacuum would do in the next minutes."""
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM (ANALYZE)"))


Timed = dict[tuple[str, str, str], tuple[float, UsageReport]]


async def reports(engine: AsyncEngine) -> Timed:
    """Return the seconds each kind of report takes, and what it says."""
    usage = UsageRows(engine)
    tenant = TenantId(await one(engine, "SELECT md5('t7')::uuid"))
    spans = {
        "23 h 17 min": END - timedelta(hours=23, minutes=17),
        "30 days and a bit": END - timedelta(days=30, minutes=17),
        f"{DAYS} days": BEGIN,
    }
    found: Timed = {}
    for span, since in spans.items():
        for whose, tenant_id in (("everybody", None), ("one tenant", tenant)):
            for group in (UsageGroup.TENANT, UsageGroup.DAY, UsageGroup.KEY):
                until = END - timedelta(minutes=4) if since > BEGIN else END
                taken: list[float] = []
                told = None
                while len(taken) < REPEATS and sum(taken) < 10:  # noqa: PLR2004 - seconds are enough
                    began = time.perf_counter()
                    told = await usage.summary(group, since=since, until=until, tenant_id=tenant_id)
                    taken.append(time.perf_counter() - began)
                assert told is not None  # noqa: S101
                found[span, whose, group.value] = (statistics.median(taken), told)
    return found


def print_reports(before: Timed, after: Timed) -> None:
    """Print a table of both, and refuse a difference in what they say."""
    print("| Span | Whose | By | From rows, ms | From sums, ms |\n| --- | --- | --- | ---: | ---: |")
    for key, (slow_s, told) in before.items():
        quick_s, told_again = after[key]
        if told != told_again:
            raise RuntimeError(f"the reports of {key} differ")
        print(f"| {' | '.join(key)} | {slow_s * 1e3:.0f} | {quick_s * 1e3:.1f} |")
    print("\nBoth columns told the same to the last token.\n")


async def roll_up(engine: AsyncEngine) -> None:
    """Make all sums, and print what that takes."""
    roll_ups = UsageRollUps(engine)
    taken = []
    for hour in await roll_ups.touched():
        began = time.perf_counter()
        await roll_ups.roll_up(hour)
        taken.append(time.perf_counter() - began)
    await vacuum(engine)
    sizes = [await one(engine, f"SELECT count(*) FROM {table}") for table in ("usage_hourly", "usage_daily")]  # noqa: S608
    print(
        f"Roll-up of all {len(taken)} hours: {sum(taken):.0f} s, one hour {statistics.median(taken) * 1e3:.0f} ms ",
        end="",
    )
    print(f"(slowest {max(taken) * 1e3:.0f} ms); {sizes[0]} sums by hour, {sizes[1]} by day.\n")


async def write(engine: AsyncEngine) -> None:
    """Print what a batch of 500 records takes, marks included, and without them."""
    usage = UsageRows(engine)
    taken = {}
    for state in ("ENABLE", "DISABLE"):
        async with engine.begin() as connection:
            await connection.execute(text(f"ALTER TABLE usage_records {state} TRIGGER USER"))
        runs = []
        for _ in range(15):
            batch = [record(END - HOUR) for _ in range(500)]
            began = time.perf_counter()
            await usage.insert_batch(batch)
            runs.append(time.perf_counter() - began)
        taken[state] = statistics.median(runs) * 1e3
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE usage_records ENABLE TRIGGER USER"))
    print(
        f"A batch of 500 records: {taken['ENABLE']:.1f} ms, {taken['DISABLE']:.1f} ms without any trigger.\n"
    )


def record(at: datetime) -> UsageRecord:
    """Return a record as accounting gets it."""
    admission = Admission(
        request_id=RequestId(uuid7()),
        period=first_of_month(at),
        tenant_id=TenantId(UUID(int=1)),
        key_id=KeyId(UUID(int=1)),
        model="model-1:8b",
        model_digest="a" * 64,
        api_family=ApiFamily.NATIVE,
        route="/api/chat",
        started_at=at,
        prompt_tokens_estimate=9,
    )
    settlement = Settlement(
        outcome=UsageOutcome.COMPLETED,
        ended_at=at,
        tokens_in=9,
        tokens_out=9,
        tokens_cached=None,
        estimated=False,
        backend="gpu-1",
        attempted_backends=("gpu-1",),
        durations=Durations(total_us=1),
    )
    return UsageRecord(admission, settlement)


async def explain(engine: AsyncEngine) -> None:
    """Print the plans behind the two columns, for one report."""
    since, until = END - timedelta(days=30, minutes=17), END - timedelta(minutes=4)
    every_hour = [since.replace(minute=0) + hour * HOUR for hour in range(31 * 24)]
    for title, touched in (("sums", []), ("rows", every_hour)):
        values = report_values(buckets(Span(since, until), None, "UTC"), touched)
        statement = report_statement((UsageGroup.TENANT,))
        async with engine.connect() as connection:
            await connection.execute(NO_JIT)
            plan = await connection.execute(
                text(f"EXPLAIN (ANALYZE, COSTS OFF, BUFFERS OFF, SUMMARY OFF) {statement.text}"), values
            )
            print(f"### 30 days and a bit, everybody, by tenant, from {title}\n\n```text")
            print("\n".join(plan.scalars()), "\n```\n")


async def drop(engine: AsyncEngine) -> None:
    """Print what dropping the oldest month takes, once its sums are made."""
    roll_ups = UsageRollUps(engine)
    for hour in await roll_ups.touched():
        await roll_ups.roll_up(hour)
    took_s = await seconds(lambda: Retention(engine).drop_month(first_of_month(BEGIN + 2 * DAY)))
    print(f"Dropping a month: {took_s * 1e3:.0f} ms, during which readers and writers of usage wait.")


async def seconds(act: Callable[[], Awaitable[object]]) -> float:
    """Return how long something takes."""
    began = time.perf_counter()
    await act()
    return time.perf_counter() - began


async def one(engine: AsyncEngine, query: str) -> Any:
    """Return the only value a query gives."""
    async with engine.connect() as connection:
        return (await connection.execute(text(query))).scalar_one()


async def size(engine: AsyncEngine) -> object:
    """Return the size of all months of the ledger, for people."""
    return await one(
        engine,
        "SELECT pg_size_pretty(sum(pg_total_relation_size(inhrelid))) FROM pg_inherits"
        " WHERE inhparent = 'usage_records'::regclass",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--oldest", action="store_true", help="on the oldest supported PostgreSQL")
    chosen = parser.parse_args()
    asyncio.run(main(chosen.rows, oldest=chosen.oldest))
