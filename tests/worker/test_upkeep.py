"""What time makes necessary is done, and doing it twice or in two places at once changes nothing."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import anyio
import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from db.key_expiry import announce_expired_keys
from db.retention import Retention
from db.usage import UsageRows
from db.usage_roll_ups import UsageRollUps
from domain.usage_spans import DAY, HOUR, first_of_month
from tests.support.ledger_records import record
from tests.support.rows import ONE, add_acme
from worker.jobs.upkeep import expire_keys, prune, roll_up

LONG_AGO = datetime(2021, 5, 15, 12, 30, tzinfo=UTC)


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
def rows(engine: AsyncEngine) -> UsageRows:
    return UsageRows(engine)


@pytest.fixture
def roll_ups(engine: AsyncEngine) -> UsageRollUps:
    return UsageRollUps(engine)


@pytest.fixture
def retention(engine: AsyncEngine) -> Retention:
    return Retention(engine, lock_wait_s=0.05)


async def state(sql: asyncpg.Connection) -> list[list[tuple[object, ...]]]:
    """Return all that upkeep may change."""
    tables = ("usage_hourly", "usage_daily", "usage_pruned_months", "revocations", "usage_records")
    return [[tuple(row) for row in await sql.fetch(f"TABLE {table} ORDER BY 1, 2")] for table in tables]


async def test_every_touched_hour_is_rolled_up(
    rows: UsageRows, roll_ups: UsageRollUps, sql: asyncpg.Connection
) -> None:
    await rows.insert_batch([record(LONG_AGO + hours * HOUR) for hours in (0, 1, 30)])

    assert await roll_up(roll_ups) == 3
    assert await sql.fetchval("SELECT sum(requests) FROM usage_daily") == 3


async def test_rolling_up_twice_changes_nothing(
    rows: UsageRows, roll_ups: UsageRollUps, sql: asyncpg.Connection
) -> None:
    await rows.insert_batch([record(LONG_AGO)])
    await roll_up(roll_ups)
    before = await state(sql)

    assert await roll_up(roll_ups) == 0
    assert await state(sql) == before


async def test_two_runs_at_once_make_each_hour_once(rows: UsageRows, roll_ups: UsageRollUps) -> None:
    await rows.insert_batch([record(LONG_AGO + hours * HOUR) for hours in range(6)])
    made: list[int] = []

    async def run() -> None:
        made.append(await roll_up(roll_ups))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        tasks.start_soon(run)

    assert sum(made) == 6
    assert await roll_ups.touched() == ()


async def test_a_run_without_time_leaves_the_rest_to_the_next(
    rows: UsageRows, roll_ups: UsageRollUps
) -> None:
    await rows.insert_batch([record(LONG_AGO), record(LONG_AGO + HOUR)])
    with capture_logs() as logs:
        assert await roll_up(roll_ups, budget_s=0) == 0

    assert [(log["event"], log["hours_left"]) for log in logs] == [("usage_roll_up_unfinished", 2)]
    assert await roll_up(roll_ups) == 2


async def test_old_months_are_dropped_when_their_sums_are_made(
    rows: UsageRows, roll_ups: UsageRollUps, retention: Retention, sql: asyncpg.Connection
) -> None:
    await rows.insert_batch([record(LONG_AGO), record(datetime.now(UTC))])

    assert await prune(retention, roll_ups, keep_months=12) == (first_of_month(LONG_AGO),)
    assert await sql.fetchval("SELECT count(*) FROM usage_records") == 1
    assert await sql.fetchval("SELECT sum(requests) FROM usage_daily") == 1


async def test_without_a_bound_no_month_is_dropped(
    rows: UsageRows, roll_ups: UsageRollUps, retention: Retention
) -> None:
    await rows.insert_batch([record(LONG_AGO)])

    assert await prune(retention, roll_ups, keep_months=None) == ()


async def test_pruning_twice_changes_nothing(
    rows: UsageRows, roll_ups: UsageRollUps, retention: Retention, sql: asyncpg.Connection
) -> None:
    await rows.insert_batch([record(LONG_AGO), record(datetime.now(UTC) - DAY)])
    await prune(retention, roll_ups, keep_months=1)
    before = await state(sql)

    assert await prune(retention, roll_ups, keep_months=1) == ()
    assert await state(sql) == before


async def test_pruning_in_two_places_at_once_loses_no_sum(
    rows: UsageRows, roll_ups: UsageRollUps, retention: Retention, sql: asyncpg.Connection
) -> None:
    await rows.insert_batch([record(LONG_AGO + days * DAY) for days in range(0, 100, 10)])

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(lambda: prune(retention, roll_ups, keep_months=1))

    assert await sql.fetchval("SELECT count(*) FROM usage_records") == 0
    assert await sql.fetchval("SELECT sum(requests) FROM usage_hourly") == 10
    assert await sql.fetchval("SELECT sum(requests) FROM usage_daily") == 10


async def test_a_month_that_somebody_reads_is_left_for_the_next_day(
    rows: UsageRows, roll_ups: UsageRollUps, retention: Retention, sql: asyncpg.Connection
) -> None:
    await rows.insert_batch([record(LONG_AGO)])
    with capture_logs() as logs:
        async with sql.transaction():
            await sql.execute("SELECT FROM usage_records")
            assert await prune(retention, roll_ups, keep_months=1) == ()

    assert "usage_month_not_dropped" in [log["event"] for log in logs]
    assert await prune(retention, roll_ups, keep_months=1) == (first_of_month(LONG_AGO),)


async def test_expired_keys_are_announced_once_and_named(
    sql: asyncpg.Connection, engine: AsyncEngine
) -> None:
    await add_acme(sql)
    await sql.execute("UPDATE api_keys SET expires_at = $1 WHERE id = $2", LONG_AGO + timedelta(days=1), ONE)
    with capture_logs() as logs:
        runs = [await expire_keys(lambda: announce_expired_keys(engine)) for _ in range(2)]

    assert runs == [1, 0]
    assert [(log["event"], log["key_ids"]) for log in logs] == [("keys_expired", [str(ONE)])]


async def test_creations_are_forgotten_after_a_day(
    retention: Retention, roll_ups: UsageRollUps, sql: asyncpg.Connection
) -> None:
    for name, age in (("old", "25 hours"), ("young", "23 hours")):
        await sql.execute(
            "INSERT INTO remembered_creations (asker, idempotency_key, fingerprint, at)"
            " VALUES (gen_random_uuid(), $1, sha256(''), now() - $2::text::interval)",
            name,
            age,
        )

    for _ in range(2):
        await prune(retention, roll_ups, keep_months=None)

        assert await sql.fetchval("SELECT array_agg(idempotency_key) FROM remembered_creations") == ["young"]
