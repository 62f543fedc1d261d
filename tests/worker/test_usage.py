from collections.abc import AsyncIterator, Sequence
from datetime import date
from typing import cast

import anyio
import msgspec
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from db.postgres import create_engine
from db.redis.connection import connect_patient
from db.redis.usage_stream import (
    DEAD,
    STREAM,
    AccountingStream,
    Backlog,
    BatchRange,
    BatchState,
    HolderStream,
    UsageStreamUnavailable,
    read_backlog,
)
from db.usage import UsageRows
from domain.usage import UsageOutcome, UsageRecord
from tests.support.usage import admission, settlement
from worker.jobs.usage import WRITE_RECORDS, account

HOLDING = "01900000-0000-7000-8000-000000000000.00000001"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_patient(SecretStr(redis_url)) as client:
        yield client


@pytest.fixture
def rows(engine: AsyncEngine) -> UsageRows:
    return UsageRows(engine)


class Holder:
    """What a journal's shipper does, by hand."""

    def __init__(self, redis: Redis) -> None:
        self._stream = HolderStream(redis, max_records=1_000_000)
        self._next = 1

    async def ship(self, *payloads: bytes) -> BatchRange:
        batch = BatchRange(self._next, self._next + len(payloads) - 1)
        assert await self._stream.append(HOLDING, batch, payloads)
        self._next = batch.last + 1
        return batch

    async def state(self, batch: BatchRange) -> BatchState | None:
        return (await self._stream.states(HOLDING)).get(batch)


@pytest.fixture
def holder(redis: Redis) -> Holder:
    return Holder(redis)


def record() -> UsageRecord:
    return UsageRecord(admission(), settlement())


def encode(record: UsageRecord) -> bytes:
    return msgspec.msgpack.Encoder(uuid_format="bytes").encode(record)


async def dead_payloads(redis: Redis) -> list[bytes]:
    found = cast("list[tuple[bytes, dict[bytes, bytes]]]", await redis.xrange(DEAD))
    return [fields[b"payload"] for _, fields in found]


async def count_rows(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM usage_records"))).scalar_one())


async def test_waiting_batches_become_rows_and_are_confirmed(
    holder: Holder, redis: Redis, rows: UsageRows, engine: AsyncEngine
) -> None:
    first = await holder.ship(encode(record()), encode(record()))
    second = await holder.ship(encode(record()))

    done = await account(stream=AccountingStream(redis), insert=rows.insert_batch)

    assert (done.rows, done.batches, done.dead_batches) == (3, 2, 0)
    assert await count_rows(engine) == 3
    assert (await holder.state(first), await holder.state(second)) == (BatchState.DONE, BatchState.DONE)
    assert (await read_backlog(redis)).entries == 0


async def test_nothing_waiting_is_nothing_done(redis: Redis, rows: UsageRows) -> None:
    done = await account(stream=AccountingStream(redis), insert=rows.insert_batch)

    assert (done.rows, done.batches) == (0, 0)


async def test_more_than_one_statement_may_write_goes_in_several(
    holder: Holder, redis: Redis, rows: UsageRows, engine: AsyncEngine
) -> None:
    for _ in range(WRITE_RECORDS // 512 + 2):
        await holder.ship(*(encode(record()) for _ in range(512)))
    sizes: list[int] = []

    async def insert(records: Sequence[UsageRecord]) -> int:
        sizes.append(len(records))
        return await rows.insert_batch(records)

    await account(stream=AccountingStream(redis), insert=insert)

    assert sizes == [WRITE_RECORDS, 1024]
    assert await count_rows(engine) == sum(sizes)


async def test_a_batch_shipped_twice_makes_one_row_each(
    holder: Holder, redis: Redis, rows: UsageRows, engine: AsyncEngine
) -> None:
    payload = encode(record())
    stream = AccountingStream(redis)
    await holder.ship(payload)
    await account(stream=stream, insert=rows.insert_batch)

    again = await holder.ship(payload)
    await account(stream=stream, insert=rows.insert_batch)

    assert await count_rows(engine) == 1
    assert await holder.state(again) is BatchState.DONE


async def test_two_runs_at_once_make_one_row_each(
    holder: Holder, redis: Redis, rows: UsageRows, engine: AsyncEngine
) -> None:
    for _ in range(5):
        await holder.ship(encode(record()), encode(record()))
    meeting, waiting = anyio.Event(), 0

    async def insert_together(records: Sequence[UsageRecord]) -> int:
        nonlocal waiting
        waiting += 1
        if waiting == 2:
            meeting.set()
        await meeting.wait()
        return await rows.insert_batch(records)

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(lambda: account(stream=AccountingStream(redis), insert=insert_together))

    assert await count_rows(engine) == 10
    assert await read_backlog(redis) == Backlog(entries=0, records=0, dead_entries=0)


async def test_a_run_that_died_before_confirming_is_repeated_without_harm(
    holder: Holder, redis: Redis, rows: UsageRows, engine: AsyncEngine
) -> None:
    lines = [record(), record()]
    batch = await holder.ship(*map(encode, lines))
    await rows.insert_batch(lines)

    await account(stream=AccountingStream(redis), insert=rows.insert_batch)

    assert await count_rows(engine) == 2
    assert await holder.state(batch) is BatchState.DONE


async def test_without_postgres_everything_stays_and_is_caught_up_later(
    holder: Holder, redis: Redis, rows: UsageRows, engine: AsyncEngine
) -> None:
    batch = await holder.ship(encode(record()))
    nowhere = create_engine("postgresql://nobody@127.0.0.1:1/none", application_name="test")
    with pytest.raises(OSError, match="1"):
        await account(stream=AccountingStream(redis), insert=UsageRows(nowhere).insert_batch)
    await nowhere.dispose()
    assert await holder.state(batch) is BatchState.WAITING

    await account(stream=AccountingStream(redis), insert=rows.insert_batch)

    assert await count_rows(engine) == 1


async def test_without_redis_a_run_says_so(rows: UsageRows) -> None:
    async with connect_patient(SecretStr("redis://127.0.0.1:1/0")) as nowhere:
        with pytest.raises(UsageStreamUnavailable):
            await account(stream=AccountingStream(nowhere), insert=rows.insert_batch)


async def test_one_unreadable_record_takes_no_other_with_it(
    holder: Holder, redis: Redis, rows: UsageRows, engine: AsyncEngine
) -> None:
    strange = msgspec.msgpack.encode({"from": "another version"})
    spoiled = await holder.ship(encode(record()), strange, encode(record()))
    sound = await holder.ship(encode(record()))

    with capture_logs() as logs:
        done = await account(stream=AccountingStream(redis), insert=rows.insert_batch)

    assert (await count_rows(engine), done.dead_batches) == (3, 1)
    assert (await holder.state(spoiled), await holder.state(sound)) == (BatchState.DEAD, BatchState.DONE)
    [payload] = await dead_payloads(redis)
    assert msgspec.msgpack.decode(payload) == [{"from": "another version"}]
    assert [log["event"] for log in logs] == ["usage_batch_dead"]


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x93\x01"])
async def test_an_unreadable_batch_is_set_aside_whole(
    holder: Holder, redis: Redis, rows: UsageRows, payload: bytes
) -> None:
    await redis.xadd(STREAM, {"holding": HOLDING, "range": "1-3", "count": 3, "payload": payload})

    await account(stream=AccountingStream(redis), insert=rows.insert_batch)

    assert await dead_payloads(redis) == [payload]
    assert await holder.state(BatchRange(1, 3)) is BatchState.DEAD


async def test_an_entry_nobody_knows_does_not_block_the_stream(
    holder: Holder, redis: Redis, rows: UsageRows, engine: AsyncEngine
) -> None:
    await redis.xadd(STREAM, {"who": "knows"})
    await holder.ship(encode(record()))

    await account(stream=AccountingStream(redis), insert=rows.insert_batch)

    assert await count_rows(engine) == 1
    assert (await read_backlog(redis)).dead_entries == 1


async def test_a_record_the_database_never_takes_is_singled_out(
    holder: Holder, redis: Redis, rows: UsageRows, engine: AsyncEngine
) -> None:
    poison = UsageRecord(admission(client_request_id="nul \0 byte"), settlement())
    lines = [record() for _ in range(20)]
    batch = await holder.ship(*map(encode, [*lines[:13], poison, *lines[13:]]))

    await account(stream=AccountingStream(redis), insert=rows.insert_batch)

    assert await count_rows(engine) == 20
    assert await holder.state(batch) is BatchState.DEAD
    [payload] = await dead_payloads(redis)
    assert msgspec.msgpack.decode(payload, type=list[UsageRecord]) == [poison]


async def test_a_month_without_a_partition_gets_one(
    holder: Holder, redis: Redis, rows: UsageRows, engine: AsyncEngine
) -> None:
    late = msgspec.structs.replace(admission(), period=date(2031, 5, 1))
    await holder.ship(encode(UsageRecord(late, settlement())))

    await account(stream=AccountingStream(redis), insert=rows.insert_batch)

    assert await count_rows(engine) == 1


async def test_a_settled_ending_replaces_a_lost_one(
    holder: Holder, redis: Redis, rows: UsageRows, engine: AsyncEngine
) -> None:
    known = record()
    lost = msgspec.structs.replace(
        known, settlement=msgspec.structs.replace(known.settlement, outcome=UsageOutcome.LOST)
    )
    for line in (lost, known, lost):
        await holder.ship(encode(line))
        await account(stream=AccountingStream(redis), insert=rows.insert_batch)

    async with engine.connect() as connection:
        outcomes = (await connection.execute(text("SELECT outcome FROM usage_records"))).scalars().all()
    assert outcomes == ["completed"]


async def test_a_run_ends_in_time_and_the_next_goes_on(holder: Holder, redis: Redis, rows: UsageRows) -> None:
    await holder.ship(encode(record()))

    done = await account(stream=AccountingStream(redis), insert=rows.insert_batch, budget_s=0)

    assert done.batches == 0
    assert (await read_backlog(redis)).entries == 1
