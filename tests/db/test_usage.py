"""The ledger: every request once, and its first real ending for good."""

from datetime import UTC, date, datetime, timedelta
from time import perf_counter

import anyio
import asyncpg
import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from db.usage import UsageRows
from domain.usage import Durations, UsageOutcome, UsageRecord
from domain.usage_report import UsageGroup
from tests.support.ledger_records import COMPLETED, DAY, LOST, admission, record, settlement
from tests.support.rows import ACME, add_acme


@pytest.fixture
def rows(engine: AsyncEngine) -> UsageRows:
    return UsageRows(engine)


async def outcomes(sql: asyncpg.Connection) -> list[tuple[str, int]]:
    found = await sql.fetch("SELECT outcome, tokens_out FROM usage_records ORDER BY request_id")
    return [(row["outcome"], row["tokens_out"]) for row in found]


async def test_every_fact_of_a_record_is_stored(rows: UsageRows, sql: asyncpg.Connection) -> None:
    written = record()
    await rows.insert_batch([written])

    row = dict(await sql.fetchrow("SELECT * FROM usage_records") or {})
    spans = {name: row.pop(name) for name in Durations.__struct_fields__}
    assert row.pop("attempts") == len(row["attempted_backends"]) == 2
    row["attempted_backends"] = tuple(row["attempted_backends"])
    facts = msgspec.structs.asdict(written.admission) | msgspec.structs.asdict(written.settlement)
    del facts["prompt_tokens_estimate"]  # became tokens_in where nobody measured
    assert msgspec.structs.asdict(facts.pop("durations")) == spans
    assert row == facts


async def test_a_record_that_names_no_digest_keeps_that_of_its_admission(
    rows: UsageRows, sql: asyncpg.Connection
) -> None:
    await rows.insert_batch([UsageRecord(admission(), settlement(backend=None))])

    assert await sql.fetchval("SELECT model_digest FROM usage_records") == "sha256:1"


async def test_a_repeated_batch_changes_nothing(rows: UsageRows, sql: asyncpg.Connection) -> None:
    batch = [record(), record()]

    assert [await rows.insert_batch(batch) for _ in range(2)] == [2, 0]
    assert len(await outcomes(sql)) == 2


async def test_a_lost_record_gives_way_to_its_real_ending(rows: UsageRows, sql: asyncpg.Connection) -> None:
    admitted = admission()
    await rows.insert_batch([UsageRecord(admitted, settlement(LOST, 5))])

    assert await rows.insert_batch([UsageRecord(admitted, settlement(COMPLETED, 7))]) == 1
    assert await outcomes(sql) == [("completed", 7)]


@pytest.mark.parametrize("later", [LOST, UsageOutcome.CUT])
async def test_a_settled_record_stays(rows: UsageRows, sql: asyncpg.Connection, later: UsageOutcome) -> None:
    admitted = admission()
    await rows.insert_batch([UsageRecord(admitted, settlement(COMPLETED, 7))])

    assert await rows.insert_batch([UsageRecord(admitted, settlement(later, 5))]) == 0
    assert await outcomes(sql) == [("completed", 7)]


@pytest.mark.parametrize("endings", [[LOST, COMPLETED], [COMPLETED, LOST], [COMPLETED, COMPLETED]])
async def test_one_batch_may_name_a_request_twice(
    rows: UsageRows, sql: asyncpg.Connection, endings: list[UsageOutcome]
) -> None:
    admitted = admission()

    assert await rows.insert_batch([UsageRecord(admitted, settlement(ending)) for ending in endings]) == 1
    assert await outcomes(sql) == [("completed", 20)]


async def test_an_empty_batch_is_nothing(rows: UsageRows) -> None:
    assert await rows.insert_batch([]) == 0


async def test_two_workers_may_write_the_same_batch(rows: UsageRows, sql: asyncpg.Connection) -> None:
    batch = [record() for _ in range(200)]
    written: list[int] = []

    async def write(records: list[UsageRecord]) -> None:
        written.append(await rows.insert_batch(records))

    async with anyio.create_task_group() as workers:
        workers.start_soon(write, batch)
        workers.start_soon(write, batch)

    assert sum(written) == len(await outcomes(sql)) == 200


async def test_a_month_without_partition_gets_one(rows: UsageRows, sql: asyncpg.Connection) -> None:
    await rows.insert_batch(
        [record(datetime(2029, 2, 28, 23, tzinfo=UTC)), record(datetime(2031, 12, 1, tzinfo=UTC))]
    )

    found = await sql.fetch("SELECT tableoid::regclass::text FROM usage_records ORDER BY period")
    assert [row[0] for row in found] == ["usage_records_2029_02", "usage_records_2031_12"]


async def test_two_workers_may_make_the_same_month(rows: UsageRows, sql: asyncpg.Connection) -> None:
    async with anyio.create_task_group() as workers:
        for _ in range(4):
            workers.start_soon(rows.make_months, [date(2029, 2, 1)])

    assert await sql.fetchval("SELECT to_regclass('usage_records_2029_02')") is not None


@pytest.mark.parametrize(
    "change",
    [
        "SET tokens_out = 0 WHERE outcome = 'completed'",
        "SET tokens_out = 0 WHERE outcome = 'lost'",
        "SET outcome = 'lost' WHERE outcome = 'completed'",
        "SET outcome = 'cut', request_id = gen_random_uuid() WHERE outcome = 'lost'",
    ],
)
async def test_the_database_refuses_to_rewrite_usage(
    rows: UsageRows, sql: asyncpg.Connection, change: str
) -> None:
    await rows.insert_batch([record(outcome=COMPLETED), record(outcome=LOST)])

    with pytest.raises(asyncpg.RestrictViolationError, match="is settled"):
        await sql.execute(f"UPDATE usage_records {change}")


async def test_usage_outlives_its_tenant(rows: UsageRows, sql: asyncpg.Connection) -> None:
    await add_acme(sql)
    await rows.insert_batch([record()])
    await sql.execute("DELETE FROM tenants")

    report = await rows.summary(UsageGroup.TENANT, since=DAY, until=DAY + timedelta(days=1))
    assert [line.label for line in report.lines] == [str(ACME)]


async def test_a_tenants_days_are_read_from_its_index(sql: asyncpg.Connection) -> None:
    await sql.execute("SET enable_seqscan = off")
    plan = await sql.fetch(
        "EXPLAIN SELECT started_at::date, sum(tokens_out) FROM usage_records"
        f" WHERE tenant_id = '{ACME}' AND started_at >= now() AND period >= CURRENT_DATE GROUP BY 1"
    )

    assert any("tenant_id_started_at" in row[0] for row in plan)


async def test_five_hundred_records_take_less_than_the_promised_time(rows: UsageRows) -> None:
    await rows.insert_batch([record()])  # connects, plans, and makes the month
    took = []
    for _ in range(5):
        batch = [record() for _ in range(500)]
        began = perf_counter()
        await rows.insert_batch(batch)
        took.append(perf_counter() - began)

    assert sorted(took)[2] < 0.25  # 20 ms on a quiet machine; this guards the shape, not the machine
