"""The shared connection: answers reach their askers, and a Redis that is away costs one wait."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

import pytest
from pydantic import SecretStr
from redis.exceptions import ResponseError

from db.redis.multiplex import MultiplexedRedis, RedisAway, RedisScript
from tests.support.stoppable import StoppableValkey

TIMEOUT_S: Final = 0.1
# A machine that does other things as well may take longer than that to notice.
NOTICED_S: Final = 0.6
# No pause between two attempts is longer.
BACK_S: Final = 3.0


@pytest.fixture
async def hasty(own_valkey: StoppableValkey) -> AsyncIterator[MultiplexedRedis]:
    own_valkey.start()
    redis = MultiplexedRedis(SecretStr(own_valkey.url), timeout_s=TIMEOUT_S)
    await back(redis)
    yield redis
    await redis.aclose()


async def back(redis: MultiplexedRedis) -> None:
    """Wait until Redis answers again."""
    async with asyncio.timeout(BACK_S):
        while True:
            try:
                await redis.call("PING")
            except (RedisAway, ResponseError):
                await asyncio.sleep(0.01)
            else:
                return


async def failures(redis: MultiplexedRedis, calls: int) -> float:
    """Return how long so many calls at once take to fail, all of them."""
    began = time.monotonic()
    answers = await asyncio.gather(*(redis.call("PING") for _ in range(calls)), return_exceptions=True)
    assert all(isinstance(answer, RedisAway) for answer in answers)
    return time.monotonic() - began


async def connections(redis: MultiplexedRedis) -> int:
    listed = await redis.call("CLIENT", "LIST", "TYPE", "NORMAL")
    assert isinstance(listed, bytes)
    return len(listed.splitlines())


async def test_every_answer_reaches_its_asker(redis: MultiplexedRedis) -> None:
    words = [f"{number}" * (number % 50 + 1) for number in range(2000)]

    assert await asyncio.gather(*(redis.call("ECHO", word) for word in words)) == [w.encode() for w in words]


async def test_a_large_answer_arrives_whole(redis: MultiplexedRedis) -> None:
    large = bytes(range(256)) * 8192

    answers = await asyncio.gather(*(redis.call("ECHO", word) for word in (large, b"small")))

    assert answers == [large, b"small"]


async def test_all_callers_share_one_connection(redis: MultiplexedRedis) -> None:
    before = await connections(redis)
    await asyncio.gather(*(redis.call("PING") for _ in range(100)))

    assert await connections(redis) == before


async def test_a_refused_command_fails_alone(redis: MultiplexedRedis) -> None:
    answers = await asyncio.gather(
        redis.call("PING"), redis.call("GET"), redis.call("ECHO", "x"), return_exceptions=True
    )

    assert [answers[0], answers[2]] == [b"PONG", b"x"]
    assert type(answers[1]) is ResponseError


async def test_who_leaves_takes_nobodys_answer(redis: MultiplexedRedis) -> None:
    leaving = [asyncio.create_task(redis.call("ECHO", "mine")) for _ in range(3)]
    staying = asyncio.create_task(redis.call("ECHO", "yours"))
    await asyncio.sleep(0)
    for task in leaving:
        task.cancel()

    assert await staying == b"yours"


async def test_the_logical_database_of_the_address_is_used(redis_url: str, redis: MultiplexedRedis) -> None:
    other = MultiplexedRedis(SecretStr(redis_url.rsplit("/", 1)[0] + "/15"), timeout_s=5)
    await redis.call("SET", "here", "1")

    assert await other.call("EXISTS", "here") == 0
    await other.aclose()


async def test_a_wrong_password_is_as_good_as_no_redis(own_valkey: StoppableValkey) -> None:
    address = own_valkey.url.rpartition("@")[2]
    stranger = MultiplexedRedis(SecretStr(f"redis://:wrong@{address}"), timeout_s=5)

    with pytest.raises(RedisAway) as away:
        await stranger.call("PING")
    assert "wrong" not in str(away.value)


async def test_a_script_redis_does_not_know_runs_all_the_same(redis: MultiplexedRedis) -> None:
    script = RedisScript("return {KEYS[1], ARGV[1], 'once'}")
    await redis.call("SCRIPT", "FLUSH")

    answers = [await redis.run(script, ("k",), "v") for _ in range(2)]

    assert answers == [[b"k", b"v", b"once"]] * 2
    assert await redis.call("SCRIPT", "EXISTS", script.sha) == [1]


async def test_what_is_sent_without_waiting_comes_after_what_was_sent(redis: MultiplexedRedis) -> None:
    append = RedisScript("return redis.call('APPEND', KEYS[1], ARGV[1])")
    await redis.run(append, ("word",), "a")
    redis.send_on(append, ("word",), "b")

    await redis.run(append, ("word",), "c")
    assert await redis.call("GET", "word") == b"abc"


async def test_a_closed_connection_fails_who_waits(redis: MultiplexedRedis) -> None:
    await redis.call("PING")
    waiting = asyncio.create_task(redis.call("BLPOP", "nothing", 0))
    await asyncio.sleep(0)
    await redis.aclose()

    with pytest.raises(RedisAway):
        await waiting


# Outages


async def test_a_silent_redis_costs_everybody_one_wait(
    hasty: MultiplexedRedis, own_valkey: StoppableValkey
) -> None:
    with own_valkey.silent():
        took_s = await failures(hasty, 50)

    assert TIMEOUT_S <= took_s < NOTICED_S


async def test_after_that_calls_fail_at_once(hasty: MultiplexedRedis, own_valkey: StoppableValkey) -> None:
    with own_valkey.silent():
        await failures(hasty, 1)
        began = time.monotonic()
        waits = [await failures(hasty, 1) for _ in range(200)]
        lasted_s = time.monotonic() - began

    # One call in each pause tries to reach it.
    assert sum(wait > TIMEOUT_S / 2 for wait in waits) <= 1 + lasted_s / TIMEOUT_S
    assert sorted(waits)[len(waits) // 2] < 0.01


async def test_only_one_call_tries_while_others_fail_at_once(
    hasty: MultiplexedRedis, own_valkey: StoppableValkey
) -> None:
    with own_valkey.silent():
        await failures(hasty, 1)
        # Until the pause is over and somebody tries again.
        async with asyncio.timeout(BACK_S):
            while True:
                trying = asyncio.create_task(failures(hasty, 1))
                await asyncio.sleep(TIMEOUT_S / 5)
                if not trying.done():
                    break
        began = time.monotonic()
        await failures(hasty, 20)
        assert time.monotonic() - began < TIMEOUT_S / 2
        await trying


async def test_it_comes_back_after_silence(hasty: MultiplexedRedis, own_valkey: StoppableValkey) -> None:
    with own_valkey.silent():
        await failures(hasty, 3)

    await back(hasty)
    assert await hasty.call("ECHO", "again") == b"again"


async def test_a_killed_redis_fails_who_waits_and_who_comes(
    hasty: MultiplexedRedis, own_valkey: StoppableValkey
) -> None:
    waiting = asyncio.create_task(hasty.call("BLPOP", "nothing", 0))
    await asyncio.sleep(0)
    with own_valkey.gone():
        with pytest.raises(RedisAway):
            await waiting
        assert await failures(hasty, 20) < NOTICED_S

    await back(hasty)


async def test_a_restarted_redis_serves_the_next_call(
    hasty: MultiplexedRedis, own_valkey: StoppableValkey
) -> None:
    script = RedisScript("return 7")
    await hasty.run(script, ())
    with own_valkey.gone():
        pass

    await back(hasty)
    assert await hasty.run(script, ()) == 7


async def test_a_busy_loop_is_not_taken_for_a_silent_redis(hasty: MultiplexedRedis) -> None:
    asking = asyncio.create_task(hasty.call("ECHO", "patience"))
    # Sent, and answered while the loop is busy.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    time.sleep(2 * TIMEOUT_S)  # noqa: ASYNC251 - the point

    assert await asking == b"patience"


async def test_nobody_ever_connects_to_a_redis_that_is_not_there(own_valkey: StoppableValkey) -> None:
    with own_valkey.gone():
        redis = MultiplexedRedis(SecretStr(own_valkey.url), timeout_s=TIMEOUT_S)
        assert await failures(redis, 10) < NOTICED_S
        await redis.aclose()
