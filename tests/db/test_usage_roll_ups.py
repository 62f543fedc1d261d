"""Sums by hour and day: always what the rows say, however late these come and whoever writes them."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import anyio
import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from db.postgres import create_engine
from db.usage import UsageRows
from db.usage_roll_ups import UsageRollUps
from domain.usage import UsageOutcome, UsageRecord
from domain.usage_report import UsageGroup, UsageReport
from domain.usage_spans import DAY, HOUR
from domain.values import TenantId
from tests.support.counts import count
from tests.support.ledger_records import COMPLETED, LOST, admission, record, settlement
from tests.support.rows import ACME, ONE, TWO
from tests.support.servers import Databases

EVENING = datetime(2031, 5, 30, 22, 15, tzinfo=UTC)
MIDNIGHT = datetime(2031, 5, 30, tzinfo=UTC)

SUMS_BY_HAND = """
    SELECT {unit}, tenant_id, key_id, model, COALESCE(backend, ''), outcome, count(*),
        count(*) FILTER (WHERE estimated), sum(tokens_in), sum(tokens_out), sum(COALESCE(tokens_cached, 0)),
        sum(COALESCE(load_us, 0)), sum(COALESCE(prompt_us, 0)), sum(COALESCE(eval_us, 0)),
        sum(COALESCE(total_us, 0))
    FROM usage_records GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
"""
HOURLY = SUMS_BY_HAND.format(unit="date_trunc('hour', started_at, 'UTC')")
DAILY = SUMS_BY_HAND.format(unit="(started_at AT TIME ZONE 'UTC')::date")


@pytest.fixture
def rows(engine: AsyncEngine) -> UsageRows:
    return UsageRows(engine)


@pytest.fixture
def roll_ups(engine: AsyncEngine) -> UsageRollUps:
    return UsageRollUps(engine)


async def roll_up_all(roll_ups: UsageRollUps) -> int:
    return sum([await roll_ups.roll_up(hour) for hour in await roll_ups.touched()])


async def assert_sums_are_those_of_the_rows(sql: asyncpg.Connection) -> None:
    for table, by_hand in (("usage_hourly", HOURLY), ("usage_daily", DAILY)):
        kept = await sql.fetch(f"TABLE {table} ORDER BY 1, 2, 3, 4, 5, 6")
        assert [tuple(row) for row in kept] == [tuple(row) for row in await sql.fetch(by_hand)]


async def test_sums_are_those_of_the_rows(
    rows: UsageRows, roll_ups: UsageRollUps, sql: asyncpg.Connection
) -> None:
    await rows.insert_batch(
        [
            record(EVENING),
            record(EVENING + HOUR, outcome=LOST, backend=None),
            record(EVENING + 2 * HOUR, tokens_out=7),
            UsageRecord(admission(EVENING, tenant=TWO, key=ACME, model="m:2"), settlement(backend="b")),
        ]
    )
    assert await roll_up_all(roll_ups) == 3

    assert await sql.fetchval("SELECT sum(requests) FROM usage_hourly") == 4
    await assert_sums_are_those_of_the_rows(sql)


async def test_hours_are_marked_by_the_clock_of_utc(rows: UsageRows, roll_ups: UsageRollUps) -> None:
    await rows.insert_batch([record(EVENING), record(EVENING + timedelta(minutes=40))])

    assert await roll_ups.touched() == (MIDNIGHT + 22 * HOUR,)


async def test_sums_that_are_up_to_date_are_not_made_again(rows: UsageRows, roll_ups: UsageRollUps) -> None:
    await rows.insert_batch([record(EVENING)])
    await roll_up_all(roll_ups)

    assert await roll_ups.touched() == ()
    assert not await roll_ups.roll_up(MIDNIGHT + 22 * HOUR)


async def test_a_repeated_batch_touches_nothing(rows: UsageRows, roll_ups: UsageRollUps) -> None:
    batch = [record(EVENING)]
    await rows.insert_batch(batch)
    await roll_up_all(roll_ups)
    await rows.insert_batch(batch)

    assert await roll_ups.touched() == ()


async def test_a_row_that_comes_late_is_added(
    rows: UsageRows, roll_ups: UsageRollUps, sql: asyncpg.Connection
) -> None:
    await rows.insert_batch([record(EVENING), record(EVENING + 5 * DAY)])
    await roll_up_all(roll_ups)
    await rows.insert_batch([record(EVENING)])
    await roll_up_all(roll_ups)

    assert await sql.fetchval("SELECT sum(requests) FROM usage_daily") == 3
    await assert_sums_are_those_of_the_rows(sql)


async def test_a_lost_request_that_settles_moves_to_its_real_ending(
    rows: UsageRows, roll_ups: UsageRollUps, sql: asyncpg.Connection
) -> None:
    admitted = admission(EVENING)
    await rows.insert_batch([UsageRecord(admitted, settlement(LOST))])
    await roll_up_all(roll_ups)
    await rows.insert_batch([UsageRecord(admitted, settlement(COMPLETED))])
    await roll_up_all(roll_ups)

    assert [row[0] for row in await sql.fetch("SELECT outcome FROM usage_hourly")] == ["completed"]
    await assert_sums_are_those_of_the_rows(sql)


async def test_rows_that_raw_sql_removes_leave_the_sums(
    rows: UsageRows, roll_ups: UsageRollUps, sql: asyncpg.Connection
) -> None:
    await rows.insert_batch([record(EVENING), record(EVENING + HOUR)])
    await roll_up_all(roll_ups)
    await sql.execute("DELETE FROM usage_records WHERE started_at = $1", EVENING)
    await roll_up_all(roll_ups)

    assert await sql.fetchval("SELECT sum(requests) FROM usage_daily") == 1
    await assert_sums_are_those_of_the_rows(sql)


async def test_a_row_committed_while_its_hour_is_made_is_not_forgotten(
    rows: UsageRows, roll_ups: UsageRollUps, sql: asyncpg.Connection
) -> None:
    await rows.insert_batch([record(EVENING)])
    async with sql.transaction():
        await sql.execute(
            "INSERT INTO usage_records SELECT period, gen_random_uuid(), tenant_id, key_id, model, model_digest,"
            " api_family, route, backend, attempts, attempted_backends, outcome, tokens_in, tokens_out,"
            " tokens_cached, estimated, queue_us, load_us, prompt_us, eval_us, first_token_us, total_us,"
            " started_at, ended_at, client_request_id FROM usage_records"
        )
        assert await roll_up_all(roll_ups) == 1  # sees one row, and one mark
    await roll_up_all(roll_ups)

    assert await sql.fetchval("SELECT sum(requests) FROM usage_hourly") == 2


async def test_a_row_committed_after_the_rows_were_read_leaves_its_mark(
    rows: UsageRows, roll_ups: UsageRollUps, sql: asyncpg.Connection
) -> None:
    await rows.insert_batch([record(EVENING)])
    async with anyio.create_task_group() as tasks, sql.transaction():
        await sql.execute("LOCK TABLE usage_daily IN SHARE MODE")  # stops whoever has made the hour's sums
        tasks.start_soon(roll_ups.roll_up, MIDNIGHT + 22 * HOUR)
        with anyio.fail_after(10):
            while not await sql.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                pass
        await rows.insert_batch([record(EVENING)])

    assert await sql.fetchval("SELECT sum(requests) FROM usage_hourly") == 1
    assert await roll_ups.touched() == (MIDNIGHT + 22 * HOUR,)


async def test_hours_made_in_several_places_at_once_are_right(
    rows: UsageRows, roll_ups: UsageRollUps, sql: asyncpg.Connection
) -> None:
    done = anyio.Event()

    async def write() -> None:
        for _ in range(count(10, 300)):
            await rows.insert_batch([record(EVENING), record(EVENING + HOUR), record(EVENING + DAY)])
        done.set()

    async def sum_up() -> None:
        while not done.is_set():
            await roll_up_all(roll_ups)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        for _ in range(3):
            tasks.start_soon(sum_up)
    await roll_up_all(roll_ups)

    await assert_sums_are_those_of_the_rows(sql)


async def test_sums_are_rebuilt_from_rows(
    rows: UsageRows, roll_ups: UsageRollUps, sql: asyncpg.Connection
) -> None:
    await rows.insert_batch([record(EVENING + day * DAY) for day in range(4)])
    await roll_up_all(roll_ups)
    await sql.execute("UPDATE usage_hourly SET requests = 99")
    await sql.execute("DELETE FROM usage_daily")

    assert await roll_ups.mark(EVENING, EVENING + 4 * DAY) == 4
    assert await roll_up_all(roll_ups) == 4
    await assert_sums_are_those_of_the_rows(sql)


async def test_sums_without_rows_go_when_rebuilt(
    rows: UsageRows, roll_ups: UsageRollUps, sql: asyncpg.Connection
) -> None:
    await rows.insert_batch([record(EVENING)])
    await roll_up_all(roll_ups)
    await sql.execute("UPDATE usage_hourly SET hour = hour - interval '3 hours'")
    await roll_ups.mark(EVENING - DAY, EVENING + DAY)
    await roll_up_all(roll_ups)

    await assert_sums_are_those_of_the_rows(sql)


# --- Reports are the same with and without sums -------------------------------------------------------------------

offsets = st.integers(-3 * 24 * 60, 3 * 24 * 60).map(lambda minutes: timedelta(minutes=minutes))
edges = offsets | st.integers(-3, 3).map(lambda days: days * DAY)
requests = st.builds(
    lambda after, tenant, model, outcome, backend: UsageRecord(
        admission(MIDNIGHT + after, tenant=tenant, key=tenant, model=model),
        settlement(outcome, tokens_out=abs(after) // timedelta(minutes=1), backend=backend),
    ),
    offsets,
    st.sampled_from([ACME, ONE]),
    st.sampled_from(["m:1", "m:2"]),
    st.sampled_from([COMPLETED, LOST, UsageOutcome.CUT]),
    st.sampled_from([None, "a", "b"]),
)


@pytest.fixture(scope="module")
async def shared(postgres: Databases, migrated_template: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(postgres.create(template=migrated_template), application_name="test")
    yield engine
    await engine.dispose()


@settings(max_examples=count(25, 1000), deadline=None)
@given(
    early=st.lists(requests, min_size=1, max_size=12),
    late=st.lists(requests, max_size=3),
    span=st.tuples(edges, edges).map(sorted),
    group=st.sampled_from(UsageGroup),
    tenant=st.sampled_from([None, ACME]),
)
async def test_a_report_is_the_same_with_and_without_sums(
    *,
    shared: AsyncEngine,
    early: list[UsageRecord],
    late: list[UsageRecord],
    span: list[timedelta],
    group: UsageGroup,
    tenant: UUID | None,
) -> None:
    rows, roll_ups = UsageRows(shared), UsageRollUps(shared)
    since, until = (MIDNIGHT + edge for edge in span)
    tenant_id = None if tenant is None else TenantId(tenant)

    async def report() -> UsageReport:
        return await rows.summary(group, since=since, until=until, tenant_id=tenant_id)

    await rows.insert_batch(early)
    await roll_up_all(roll_ups)
    await rows.insert_batch(late)
    partly = await report()
    await roll_up_all(roll_ups)
    summed = await report()
    await roll_ups.mark(MIDNIGHT - 9 * DAY, MIDNIGHT + 9 * DAY)
    from_rows = await report()

    assert from_rows == summed == partly
