from collections.abc import AsyncIterator

import msgspec
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.typing import EncodableT, FieldT

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
    pack_array,
    read_backlog,
)

HOLDING = "01900000-0000-7000-8000-000000000000.00000001"
FIRST, SECOND = BatchRange(1, 2), BatchRange(3, 5)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_patient(SecretStr(redis_url)) as client:
        yield client


@pytest.fixture
def holder(redis: Redis) -> HolderStream:
    return HolderStream(redis, max_records=10)


@pytest.fixture
def worker(redis: Redis) -> AccountingStream:
    return AccountingStream(redis)


def encoded(batch: BatchRange) -> list[bytes]:
    return [msgspec.msgpack.encode(number) for number in range(batch.first, batch.last + 1)]


async def append(holder: HolderStream, *batches: BatchRange) -> list[bool]:
    return [await holder.append(HOLDING, batch, encoded(batch)) for batch in batches]


async def test_the_worker_reads_batches_in_order(holder: HolderStream, worker: AccountingStream) -> None:
    await append(holder, FIRST, SECOND)

    entries = await worker.oldest(10)

    assert [(entry.holding, entry.range) for entry in entries] == [(HOLDING, FIRST), (HOLDING, SECOND)]
    assert [msgspec.msgpack.decode(entry.payload) for entry in entries] == [[1, 2], [3, 4, 5]]


async def test_a_batch_appended_again_stands_there_once(
    holder: HolderStream, worker: AccountingStream, redis: Redis
) -> None:
    assert await append(holder, FIRST, FIRST) == [True, True]

    assert len(await worker.oldest(10)) == 1
    assert await read_backlog(redis) == Backlog(entries=1, records=2, dead_entries=0)


async def test_a_finished_batch_is_not_appended_again(holder: HolderStream, worker: AccountingStream) -> None:
    await append(holder, FIRST)
    [entry] = await worker.oldest(1)
    await worker.finish(entry)

    assert await append(holder, FIRST) == [True]

    assert await worker.oldest(10) == []


async def test_the_holder_learns_what_is_done(holder: HolderStream, worker: AccountingStream) -> None:
    await append(holder, FIRST, SECOND)
    [entry] = await worker.oldest(1)

    await worker.finish(entry)

    assert await holder.states(HOLDING) == {FIRST: BatchState.DONE, SECOND: BatchState.WAITING}


async def test_forgotten_batches_leave_redis(
    holder: HolderStream, worker: AccountingStream, redis: Redis
) -> None:
    await append(holder, FIRST)
    [entry] = await worker.oldest(1)
    await worker.finish(entry)

    assert await holder.states(HOLDING, forget=[FIRST]) == {}

    assert await redis.keys("nng:usage:holding:*") == []


async def test_too_many_waiting_records_pause_the_holder_until_some_are_done(
    holder: HolderStream, worker: AccountingStream, redis: Redis
) -> None:
    batches = [BatchRange(1, 4), BatchRange(5, 8), BatchRange(9, 12)]
    assert await append(holder, *batches) == [True, True, False]
    assert await holder.states(HOLDING) == dict.fromkeys(batches[:2], BatchState.WAITING)

    await worker.finish((await worker.oldest(1))[0])

    assert await append(holder, batches[2]) == [True]
    assert (await read_backlog(redis)).records == 8


async def test_one_batch_larger_than_the_bound_still_passes(holder: HolderStream) -> None:
    assert await append(holder, BatchRange(1, 100)) == [True]


async def test_finishing_twice_counts_once(
    holder: HolderStream, worker: AccountingStream, redis: Redis
) -> None:
    await append(holder, FIRST, SECOND)
    [entry] = await worker.oldest(1)

    await worker.finish(entry)
    await worker.finish(entry)

    assert await read_backlog(redis) == Backlog(entries=1, records=3, dead_entries=0)


async def test_a_wiped_redis_knows_nothing_and_takes_the_batch_again(
    holder: HolderStream, worker: AccountingStream, redis: Redis
) -> None:
    await append(holder, FIRST)
    await redis.flushdb()

    assert await holder.states(HOLDING) == {}
    assert await append(holder, FIRST) == [True]

    assert [entry.range for entry in await worker.oldest(10)] == [FIRST]


async def test_a_batch_committed_before_the_wipe_is_done_after_it(
    holder: HolderStream, worker: AccountingStream, redis: Redis
) -> None:
    await append(holder, FIRST)
    [entry] = await worker.oldest(1)
    await redis.flushdb()

    await worker.finish(entry)

    assert await holder.states(HOLDING) == {FIRST: BatchState.DONE}


async def test_a_doubted_batch_that_left_the_stream_is_forgotten(
    holder: HolderStream, worker: AccountingStream, redis: Redis
) -> None:
    await append(holder, FIRST, SECOND)
    [entry, _] = await worker.oldest(2)
    await redis.xdel(STREAM, entry.id)

    assert await holder.states(HOLDING, doubted=[FIRST, SECOND]) == {SECOND: BatchState.WAITING}


async def test_a_lost_counter_heals_when_the_stream_is_empty(
    holder: HolderStream, worker: AccountingStream, redis: Redis
) -> None:
    await append(holder, FIRST)
    await redis.set("nng:usage:waiting", 1_000_000)
    await worker.finish((await worker.oldest(1))[0])

    assert await append(holder, SECOND) == [True]

    assert (await read_backlog(redis)).records == 3


async def test_a_batch_set_aside_is_kept_once_and_its_holder_told(
    holder: HolderStream, worker: AccountingStream, redis: Redis
) -> None:
    await append(holder, FIRST)
    [entry] = await worker.oldest(1)

    for _ in range(2):
        await worker.set_aside(entry, reason="not readable", payload=b"rest")

    assert await holder.states(HOLDING) == {FIRST: BatchState.DEAD}
    assert await read_backlog(redis) == Backlog(entries=0, records=0, dead_entries=1)
    assert [fields for _, fields in await redis.xrange(DEAD) or []] == [
        {
            b"holding": HOLDING.encode(),
            b"range": b"1-2",
            b"reason": b"not readable",
            b"payload": b"rest",
        }
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"hello": "world"},
        {"holding": "h", "range": "5-1"},
        {"holding": "h", "range": "one-two"},
        {"holding": "", "range": "1-2"},
        {"holding": b"\xff", "range": "1-2"},
    ],
)
async def test_an_entry_no_holder_wrote_is_recognised_and_removable(
    worker: AccountingStream, redis: Redis, fields: dict[FieldT, EncodableT]
) -> None:
    await redis.xadd(STREAM, {**fields})
    [entry] = await worker.oldest(1)

    await worker.set_aside(entry, reason="foreign", payload=b"")

    assert (entry.holding, entry.range) == (None, None)
    assert await redis.xlen(STREAM) == 0


async def test_an_unreachable_redis_is_one_typed_error() -> None:
    async with connect_patient(SecretStr("redis://127.0.0.1:1/0")) as nowhere:
        holder, worker = HolderStream(nowhere, max_records=1), AccountingStream(nowhere)
        for question in (
            append(holder, FIRST),
            holder.states(HOLDING),
            worker.oldest(1),
            read_backlog(nowhere),
        ):
            with pytest.raises(UsageStreamUnavailable):
                await question


async def test_a_refusal_of_redis_is_the_same_error(holder: HolderStream, redis: Redis) -> None:
    await redis.set("nng:usage", "not a stream")

    with pytest.raises(UsageStreamUnavailable):
        await append(holder, FIRST)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 512])
def test_packed_records_read_as_one_array(count: int) -> None:
    assert msgspec.msgpack.decode(pack_array([b"\x07"] * count)) == [7] * count
