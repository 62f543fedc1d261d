"""Differences in Redis's stream and between rows and their sums, made on real stores."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from app.reconcile.findings import FindingKind
from app.reconcile.survey import survey
from db.redis.usage_stream import (
    DEAD,
    STREAM,
    WAITING,
    AccountingStream,
    BatchRange,
    HolderStream,
    pack_array,
)
from db.usage_roll_ups import UsageRollUps
from domain.usage import UsageOutcome, UsageRecord
from tests.app.reconcile.conftest import World, encoded

HOLDING = "01900000-0000-7000-8000-000000000000.00000001"
LATE_MS = 60_000


async def ship(world: World, *records: UsageRecord) -> None:
    """Append a batch, as its holder does."""
    stream = HolderStream(world.redis, max_records=100)
    assert await stream.append(HOLDING, BatchRange(1, len(records)), [encoded(each) for each in records])


async def ship_earlier(world: World, *records: UsageRecord) -> None:
    """Append a batch with an id of a minute ago."""
    now_s, _ = await world.redis.time()
    await world.redis.xadd(
        STREAM,
        {"holding": HOLDING, "range": f"1-{len(records)}", "payload": pack_array([*map(encoded, records)])},
        id=f"{now_s * 1000 - LATE_MS}-0",
    )
    await world.redis.set(WAITING, len(records))


async def set_aside(world: World, *records: UsageRecord, spoiled: bool = False) -> None:
    """Set a batch aside, as the worker does."""
    await ship(world, *records)
    worker = AccountingStream(world.redis)
    (entry,) = await worker.oldest(1)
    pieces = [*map(encoded, records), *([b"\xc0"] if spoiled else [])]
    await worker.set_aside(entry, reason="refused by the database", payload=pack_array(pieces))


async def execute(world: World, statement: str) -> None:
    connection = await asyncpg.connect(world.owner_url)
    await connection.execute(statement)
    await connection.close()


async def test_a_batch_that_has_just_come_is_on_its_way(world: World) -> None:
    await ship(world, world.record())

    assert await world.found() == []


async def test_batches_that_nobody_accounts_are_named(world: World) -> None:
    await ship_earlier(world, world.record(), world.record())
    (finding,) = await world.found()

    assert finding.kind is FindingKind.STREAM_WAITING
    assert finding.figures["records"] == 2
    assert await world.repair() == [None]


async def test_the_number_of_waiting_records_is_corrected(world: World) -> None:
    await ship(world, world.record(), world.record())
    await world.redis.incrby(WAITING, 7)
    (finding,) = await world.found()
    assert (finding.kind, finding.how_much) == (FindingKind.STREAM_MISCOUNTED, "9 counted, 2 there")

    await world.repair()

    assert await world.redis.get(WAITING) == b"2"
    assert await world.found() == []


async def test_an_empty_stream_begins_to_count_by_itself(world: World) -> None:
    await world.redis.set(WAITING, 7)

    assert await world.found() == []


async def test_records_set_aside_are_written_and_their_batch_goes(world: World) -> None:
    records = [world.record(), world.record()]
    await set_aside(world, *records)
    (finding,) = await world.found()
    assert finding.kind is FindingKind.STREAM_DEAD
    assert finding.how_much == "2 of 2 records without a row, refused by the database"

    await world.repair()

    assert await world.outcomes() == {record.admission.request_id: "completed" for record in records}
    assert await world.redis.xlen(DEAD) == 0
    assert await world.found() == []


async def test_a_batch_with_something_unreadable_in_it_is_kept(world: World) -> None:
    await set_aside(world, world.record(), spoiled=True)

    await world.repair()

    assert len(await world.outcomes()) == 1
    (finding,) = await world.found()
    assert finding.how_much == "0 of 1 record without a row, 1 unreadable, refused by the database"


async def test_a_row_called_lost_gets_the_ending_that_was_set_aside(world: World) -> None:
    lost = world.record(outcome=UsageOutcome.LOST)
    await world.rows.insert_batch([lost])
    await set_aside(world, world.record(lost.admission.request_id))
    assert await world.kinds() == [FindingKind.ROWS_LOST, FindingKind.STREAM_DEAD]

    await world.repair()

    assert await world.outcomes() == {lost.admission.request_id: "completed"}
    assert await world.found() == []


async def summed(world: World) -> UsageRollUps:
    """Write two rows, and make their sums."""
    await world.rows.insert_batch([world.record(), world.record()])
    roll_ups = UsageRollUps(world.stores.database.engine)
    for hour in await roll_ups.touched():
        await roll_ups.roll_up(hour)
    return roll_ups


async def test_rows_whose_sums_are_not_made_yet_are_no_difference(world: World) -> None:
    await world.rows.insert_batch([world.record()])

    assert await world.found() == []


async def test_sums_that_are_those_of_their_rows_are_no_difference(world: World) -> None:
    await summed(world)

    assert await world.found() == []


@pytest.mark.parametrize(
    ("spoil", "where", "how_much"),
    [
        (
            "UPDATE usage_hourly SET requests = requests + 5",
            ["hour", "day"],
            "12 requests, 16 tokens; its rows say 2 and 16",
        ),
        ("UPDATE usage_daily SET tokens_in = 1", ["day"], "2 requests, 12 tokens; its hours say 2 and 16"),
        ("DELETE FROM usage_hourly", ["hour", "day"], "0 requests, 0 tokens; its rows say 2 and 16"),
        ("UPDATE usage_hourly SET backend = 'z'", ["hour", "day"], "its rows say another tenant"),
        ("UPDATE usage_hourly SET eval_us = 9", ["hour", "day"], "its rows say another tenant"),
    ],
)
async def test_sums_that_differ_are_made_anew(
    world: World, spoil: str, where: list[str], how_much: str
) -> None:
    roll_ups = await summed(world)
    await execute(world, spoil)
    found = await world.found()
    assert {finding.kind for finding in found} == {FindingKind.SUMS_DIFFER}
    assert [finding.where.split()[0] for finding in found] == where
    assert found[0].how_much.startswith(how_much)

    await world.repair()

    assert await world.found() == []
    assert set(await world.audited()) == {"usage.mark"}
    for hour in await roll_ups.touched():
        await roll_ups.roll_up(hour)
    assert await world.found() == []


async def test_sums_without_any_row_or_hour_are_left_to_people(world: World) -> None:
    await summed(world)
    await execute(world, "UPDATE usage_daily SET day = day - 1")
    await execute(world, "DELETE FROM usage_hourly")
    await execute(world, "DELETE FROM usage_records")
    await execute(world, "DELETE FROM usage_touched_hours")

    assert await world.repair() == ["nothing: no row is left that it could be made from"]


async def test_of_a_dropped_month_the_sums_are_all_there_is(world: World) -> None:
    await summed(world)
    await execute(world, "INSERT INTO usage_pruned_months SELECT DISTINCT period FROM usage_records")
    await execute(world, "DELETE FROM usage_records")

    assert await world.found() == []


async def test_hours_before_the_span_are_not_compared(world: World) -> None:
    await summed(world)
    await execute(world, "UPDATE usage_hourly SET requests = 9, hour = hour - interval '9 days'")
    await execute(world, "UPDATE usage_daily SET requests = 9, day = day - 9")
    await execute(world, "DELETE FROM usage_records")
    await execute(world, "DELETE FROM usage_touched_hours")

    assert await world.found() == []


async def test_what_is_gone_at_the_second_look_is_not_reported(world: World) -> None:
    await ship(world, world.record())
    await world.redis.incrby(WAITING, 7)
    waited = []

    async def put_right(seconds: float) -> None:
        waited.append(seconds)
        await world.redis.decrby(WAITING, 7)

    since = datetime.now(UTC) - timedelta(days=1)
    found = (await survey(world.stores, since=since, pause=put_right)).findings

    assert (waited, found) == ([2.0], ())
