"""Behind Sentinels every connection is to the primary, whichever server that is."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from db.redis.connection import connect_hot, connect_patient, own_channel
from db.redis.multiplex import MultiplexedRedis, RedisAway, RedisScript
from db.redis.sentinel import SentinelAddress, find_primary, sentinel_address
from tests.support.scripted_backend import closed_port, speaking_server
from tests.support.sentinels import SERVICE, Sentinels, running_sentinels, server

BACK_S = 10.0


@pytest.fixture(scope="module")
def sentinels() -> Iterator[Sentinels]:
    with (
        tempfile.TemporaryDirectory(prefix="nng-test-") as directory,
        running_sentinels(Path(directory)) as found,
    ):
        yield found


@pytest.fixture
async def multiplexed(sentinels: Sentinels) -> AsyncIterator[MultiplexedRedis]:
    redis = MultiplexedRedis(SecretStr(sentinels.url), timeout_s=2)
    yield redis
    await redis.aclose()


@pytest.fixture
async def patient(sentinels: Sentinels) -> AsyncIterator[Redis]:
    async with connect_patient(SecretStr(sentinels.url)) as redis:
        yield redis


async def test_what_is_written_is_on_the_primary_in_its_database(
    sentinels: Sentinels, multiplexed: MultiplexedRedis, patient: Redis
) -> None:
    await patient.set("by-pool", "1")
    await multiplexed.call("SET", "by-multiplex", "1")

    with server(sentinels.primary()) as primary:
        assert primary.exists("by-pool", "by-multiplex") == 2
    assert own_channel(patient, "news") == "news:1"


async def test_one_sentinel_that_is_gone_is_not_missed(sentinels: Sentinels) -> None:
    async with closed_port() as gone:
        url = sentinels.url.replace("127.0.0.1", f"127.0.0.1:{gone},127.0.0.1")

        async with connect_hot(SecretStr(url), timeout_ms=2000) as redis:
            assert await redis.ping()


async def test_a_server_that_is_a_replica_by_now_is_not_used(sentinels: Sentinels) -> None:
    replica = sentinels.replica()
    answer = f"*2\r\n$9\r\n127.0.0.1\r\n${len(str(replica))}\r\n{replica}\r\n".encode()

    async def names_the_replica(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(answer)

    async with speaking_server(names_the_replica) as behind:
        url = sentinels.url.replace(str(sentinels.port), behind.rpartition(":")[2])
        async with (
            aclosing(MultiplexedRedis(SecretStr(url), timeout_s=2)) as multiplexed,
            connect_patient(SecretStr(url)) as pool,
        ):
            with pytest.raises(RedisAway):
                await multiplexed.call("PING")
            with pytest.raises(RedisConnectionError):
                await pool.ping()


async def test_without_any_sentinel_nobody_is_reached(sentinels: Sentinels) -> None:
    async with closed_port() as gone:
        url = sentinels.url.replace(str(sentinels.port), str(gone))
        address = sentinel_address(url)
        assert address is not None

        with pytest.raises(ConnectionError):
            await find_primary(address, timeout_s=2)
        async with connect_hot(SecretStr(url), timeout_ms=100) as redis:
            with pytest.raises(RedisConnectionError):
                await redis.ping()


async def test_a_service_that_nobody_watches_is_not_found(sentinels: Sentinels) -> None:
    address = sentinel_address(sentinels.url.replace(SERVICE, "another"))
    assert address is not None

    with pytest.raises(ConnectionError, match="no Sentinel knows the primary"):
        await find_primary(address, timeout_s=2)


async def test_after_a_failover_everybody_finds_the_new_primary(
    sentinels: Sentinels, multiplexed: MultiplexedRedis, patient: Redis
) -> None:
    # The last test of these servers: one of them is dead afterwards.
    script = RedisScript("return redis.call('SET', KEYS[1], ARGV[1])")
    assert await _writes(multiplexed, patient, script, sentinels.primary())

    await asyncio.to_thread(sentinels.lose_primary)

    new = sentinels.primary()
    async with asyncio.timeout(BACK_S):
        while not await _writes(multiplexed, patient, script, new):  # noqa: ASYNC110 - Redis cannot set our events
            await asyncio.sleep(0.01)
    with server(new) as primary:
        assert [primary.get("where"), primary.get("by-pool")] == [str(new).encode()] * 2


async def _writes(multiplexed: MultiplexedRedis, patient: Redis, script: RedisScript, port: int) -> bool:
    try:
        await multiplexed.run(script, ("where",), port)
        await patient.set("by-pool", str(port))
    except (RedisError, OSError):
        return False
    return True


def test_an_address_is_taken_apart() -> None:
    found = sentinel_address(
        "rediss+sentinel://user:p%40ss@a:1,b,[::1]:3/main/2?sentinel_password=x&ssl_cert_reqs=none"
    )

    assert found == SentinelAddress(
        sentinels=(("a", 1), ("b", 26379), ("::1", 3)),
        service="main",
        password="x",
        plain="rediss://user:p%40ss@primary/2?ssl_cert_reqs=none",
    )
    assert sentinel_address("redis://:secret@host/0") is None


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://a:1",
        "redis+sentinel:///main",
        "redis+sentinel://a:x/main",
        "redis+sentinel://a:1/main/x",
    ],
)
def test_an_address_that_leaves_something_out_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"names no|Port"):
        sentinel_address(url)
