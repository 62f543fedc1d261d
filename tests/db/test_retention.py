"""Months are there before their first request; dropping them loses rows but no sums."""

from datetime import UTC, datetime, timedelta

import anyio
import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from db.retention import Retention
from db.usage import UsageRows
from db.usage_roll_ups import UsageRollUps
from domain.usage_report import UsageGroup
from domain.usage_spans import first_of_month
from tests.support.ledger_records import record
from tests.support.rows import add_acme

MONTHS = (
    "SELECT right(inhrelid::regclass::text, 7) FROM pg_inherits"
    " WHERE inhparent = 'usage_records'::regclass ORDER BY 1"
)


def middle_of_month(months_ago: int) -> datetime:
    """Return noon of the 15th, so many months before this one."""
    month = datetime.now(UTC).replace(day=15, hour=12, minute=0, second=0, microsecond=0)
    for _ in range(months_ago):
        month = (month.replace(day=1) - timedelta(days=1)).replace(day=15)
    return month


OLD = middle_of_month(4)
MONTH = first_of_month(OLD)


@pytest.fixture
def rows(engine: AsyncEngine) -> UsageRows:
    return UsageRows(engine)


@pytest.fixture
def roll_ups(engine: AsyncEngine) -> UsageRollUps:
    return UsageRollUps(engine)


@pytest.fixture
def retention(engine: AsyncEngine) -> Retention:
    return Retention(engine)


async def months(sql: asyncpg.Connection) -> list[str]:
    return [row[0] for row in await sql.fetch(MONTHS)]


async def roll_up_all(roll_ups: UsageRollUps) -> None:
    for hour in await roll_ups.touched():
        await roll_ups.roll_up(hour)


async def requests(rows: UsageRows) -> int:
    """Return how many requests a report over all time counts."""
    report = await rows.summary(
        UsageGroup.TENANT, since=datetime(2001, 1, 1, tzinfo=UTC), until=datetime(2101, 1, 1, tzinfo=UTC)
    )
    return report.total.requests


async def test_missing_months_are_made_ahead_once(retention: Retention, sql: asyncpg.Connection) -> None:
    wanted = await months(sql)
    for month in wanted:
        await sql.execute(f"DROP TABLE usage_records_{month}")

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(retention.make_months_ahead)

    assert len(wanted) == 3
    assert await months(sql) == wanted


@pytest.mark.parametrize(("keep_months", "expired"), [(1, 3), (3, 1), (4, 0)])
async def test_whole_months_before_this_one_are_kept(
    rows: UsageRows, retention: Retention, keep_months: int, expired: int
) -> None:
    ages = range(5)
    await rows.insert_batch([record(middle_of_month(age)) for age in ages])

    found = await retention.expired_months(keep_months)
    assert found == tuple(first_of_month(middle_of_month(age)) for age in reversed(ages) if age > keep_months)
    assert len(found) == expired


async def test_a_dropped_month_keeps_its_sums(
    rows: UsageRows, roll_ups: UsageRollUps, retention: Retention, sql: asyncpg.Connection
) -> None:
    await rows.insert_batch([record(OLD), record(middle_of_month(1))])
    await roll_up_all(roll_ups)

    assert await retention.drop_month(MONTH)
    assert await sql.fetchval("SELECT count(*) FROM usage_records") == 1
    assert await requests(rows) == 2


async def test_a_month_whose_sums_are_not_made_is_not_dropped(rows: UsageRows, retention: Retention) -> None:
    await rows.insert_batch([record(OLD)])

    assert not await retention.drop_month(MONTH)
    assert await requests(rows) == 1


async def test_dropping_gives_way_to_somebody_who_reads(
    rows: UsageRows, roll_ups: UsageRollUps, engine: AsyncEngine, sql: asyncpg.Connection
) -> None:
    retention = Retention(engine, lock_wait_s=0.05)
    await rows.insert_batch([record(OLD)])
    await roll_up_all(roll_ups)
    async with sql.transaction():
        await sql.execute("SELECT FROM usage_records")
        assert not await retention.drop_month(MONTH)

    assert await retention.drop_month(MONTH)


async def test_a_month_dropped_in_two_places_is_dropped_once(
    rows: UsageRows, roll_ups: UsageRollUps, retention: Retention
) -> None:
    await rows.insert_batch([record(OLD)])
    await roll_up_all(roll_ups)
    dropped: list[bool] = []

    async def drop() -> None:
        dropped.append(await retention.drop_month(MONTH))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(drop)

    assert dropped == [True] * 3
    assert await requests(rows) == 1


async def test_rows_after_the_drop_are_added_to_the_sums(
    rows: UsageRows, roll_ups: UsageRollUps, retention: Retention, sql: asyncpg.Connection
) -> None:
    await rows.insert_batch([record(OLD)])
    await roll_up_all(roll_ups)
    await retention.drop_month(MONTH)
    await rows.insert_batch([record(OLD), record(OLD + timedelta(days=1))])

    assert await roll_ups.touched() == ()
    assert await retention.drop_month(MONTH)
    assert await requests(rows) == 3
    assert await sql.fetchval("SELECT sum(requests) FROM usage_hourly") == 3
    assert await sql.fetchval("SELECT count(*) FROM usage_records") == 0


async def test_sums_of_a_dropped_month_are_never_made_anew(
    rows: UsageRows, roll_ups: UsageRollUps, retention: Retention, sql: asyncpg.Connection
) -> None:
    await rows.insert_batch([record(OLD)])
    await roll_up_all(roll_ups)
    await retention.drop_month(MONTH)
    await roll_ups.mark(OLD - timedelta(days=90), datetime.now(UTC))
    assert await roll_ups.touched() == ()
    await sql.execute("INSERT INTO usage_touched_hours (hour) SELECT hour FROM usage_hourly")
    await roll_up_all(roll_ups)

    assert await requests(rows) == 1


async def test_a_writer_whose_month_is_about_to_go_gets_through(
    rows: UsageRows, roll_ups: UsageRollUps, retention: Retention, sql: asyncpg.Connection
) -> None:
    await rows.insert_batch([record(OLD)])
    await roll_up_all(roll_ups)
    async with anyio.create_task_group() as tasks, sql.transaction():
        await sql.execute("SELECT make_usage_partition($1)", MONTH)
        tasks.start_soon(retention.drop_month, MONTH)
        with anyio.fail_after(10):
            while not await sql.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                pass
        await sql.execute(
            "INSERT INTO usage_records (period, request_id, tenant_id, key_id, model, model_digest, api_family,"
            " route, attempts, attempted_backends, outcome, tokens_in, tokens_out, estimated, started_at, ended_at)"
            " SELECT period, gen_random_uuid(), tenant_id, key_id, model, model_digest, api_family, route, attempts,"
            " attempted_backends, outcome, tokens_in, tokens_out, estimated, started_at, ended_at FROM usage_records"
        )

    assert await requests(rows) == 2


async def test_old_revocations_go_and_the_newest_stays(retention: Retention, sql: asyncpg.Connection) -> None:
    await add_acme(sql)
    for _ in range(3):
        await sql.execute("UPDATE tenants SET slug = slug || 'x'")
    newest = await sql.fetchval("SELECT max(seq) FROM revocations")

    assert await retention.delete_revocations(timedelta(days=1)) == 0
    assert await retention.delete_revocations(timedelta()) > 0
    assert await retention.delete_revocations(timedelta()) == 0
    assert [row[0] for row in await sql.fetch("SELECT seq FROM revocations")] == [newest]


async def test_without_any_revocation_there_is_nothing_to_delete(retention: Retention) -> None:
    assert await retention.delete_revocations(timedelta()) == 0
