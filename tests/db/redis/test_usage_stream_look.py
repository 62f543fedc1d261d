"""Looking at the stream of usage from outside."""

import msgspec
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from db.redis.connection import connect_patient
from db.redis.usage_stream import DEAD, WAITING, AccountingStream, BatchRange, HolderStream, pack_array
from db.redis.usage_stream_look import UsageStreamLook

HOLDING = "01900000-0000-7000-8000-000000000000.00000001"


@pytest.fixture
async def redis(redis_url: str) -> Redis:
    return connect_patient(SecretStr(redis_url))


async def append(redis: Redis, batches: int) -> None:
    holder = HolderStream(redis, max_records=1_000)
    for number in range(batches):
        batch = BatchRange(2 * number + 1, 2 * number + 2)
        assert await holder.append(HOLDING, batch, [msgspec.msgpack.encode(number)] * 2)


async def test_every_batch_is_seen_however_many_there_are(redis: Redis) -> None:
    await append(redis, 40)
    look = await UsageStreamLook(redis).waiting()

    assert [batch.range.first for batch in look.batches if batch.range] == list(range(1, 81, 2))
    assert look.state is not None
    assert (look.state.entries, look.state.counter, look.records) == (40, 80, 80)
    await redis.aclose()


async def test_an_empty_stream_is_seen_as_empty(redis: Redis) -> None:
    look = await UsageStreamLook(redis).waiting()

    assert (look.batches, look.records) == ((), 0)
    await redis.aclose()


async def test_the_counter_of_a_stream_that_has_changed_is_left_alone(redis: Redis) -> None:
    await append(redis, 2)
    await redis.incr(WAITING)
    streams = UsageStreamLook(redis)
    look = await streams.waiting()
    (entry, *_) = await AccountingStream(redis).oldest(1)
    await AccountingStream(redis).finish(entry)

    assert not await streams.correct(look)
    assert await streams.correct(await streams.waiting())
    assert await redis.get(WAITING) == b"2"
    await redis.aclose()


async def test_a_dead_batch_is_shown_and_dropped_once(redis: Redis) -> None:
    await append(redis, 1)
    (entry,) = await AccountingStream(redis).oldest(1)
    await AccountingStream(redis).set_aside(entry, reason="strange", payload=pack_array([b"\x01"]))
    streams = UsageStreamLook(redis)
    (dead,) = await streams.dead()

    assert (dead.holding, dead.range, dead.reason, dead.payload) == (HOLDING, "1-2", "strange", b"\x91\x01")
    assert [await streams.drop_dead(dead), await streams.drop_dead(dead)] == [True, False]
    assert await redis.xlen(DEAD) == 0
    await redis.aclose()
