"""The job queue on a real Redis: our prefix, one job per key, and nobody stopped by junk or an outage."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import RedisError
from structlog.testing import capture_logs

from db.redis.connection import connect_patient
from db.redis.queue import GatewayQueue
from domain.jobs import DISCOVERY_POLL, USAGE_ACCOUNT
from tests.support.scripted_backend import closed_port


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_patient(SecretStr(redis_url)) as client:
        yield client


@pytest.fixture
def queue(redis: Redis) -> GatewayQueue:
    return GatewayQueue(redis)


async def test_an_order_reaches_the_next_worker_with_its_limits(queue: GatewayQueue) -> None:
    assert await queue.order(DISCOVERY_POLL)

    job = await queue.dequeue(timeout=1)

    assert job is not None
    assert (job.function, job.key) == ("discovery.poll", "discovery.poll")
    assert (job.timeout, job.heartbeat, job.retries) == (360, 3, 1)


async def test_the_same_order_twice_is_one_job(queue: GatewayQueue) -> None:
    assert await queue.order(DISCOVERY_POLL)
    assert not await queue.order(DISCOVERY_POLL)
    assert await queue.order(USAGE_ACCOUNT)

    assert await queue.count("queued") == 2


async def test_every_key_carries_our_prefix(queue: GatewayQueue, redis: Redis) -> None:
    await queue.order(DISCOVERY_POLL)
    await queue.order(USAGE_ACCOUNT)
    job = await queue.dequeue(timeout=1)
    assert job is not None
    await queue.abort(job, "test")
    await queue.sweep()
    await queue.schedule()
    await queue.worker_info("w", queue.name)

    keys = [bytes(key) async for key in redis.scan_iter("*")]

    assert len(keys) >= 5
    assert [key for key in keys if not key.startswith(b"nng:")] == []


@pytest.mark.parametrize(
    "junk",
    [
        b"\x80\x04pickle",
        b"[]",
        b"{}",
        json.dumps({"queue": "gateway", "no_such_field": 1}).encode(),
        json.dumps({"queue": "another", "function": "discovery.poll"}).encode(),
        json.dumps({"queue": "gateway", "function": "x", "status": "no such status"}).encode(),
    ],
)
async def test_what_is_no_job_is_passed_over_and_swept(
    queue: GatewayQueue, redis: Redis, junk: bytes
) -> None:
    await redis.set(queue.job_id("junk"), junk)
    await redis.rpush(queue.namespace("queued"), queue.job_id("junk"))
    await queue.order(DISCOVERY_POLL)

    nothing = await queue.dequeue(timeout=1)
    swept = await queue.sweep()
    job = await queue.dequeue(timeout=1)

    assert nothing is None
    assert swept == [queue.job_id("junk")]
    assert job is not None


async def test_without_redis_a_dequeue_pauses_and_says_so_once() -> None:
    async with closed_port() as port, connect_patient(SecretStr(f"redis://127.0.0.1:{port}")) as redis:
        queue = GatewayQueue(redis)
        loop = asyncio.get_running_loop()
        before = loop.time()
        with capture_logs() as logs:
            assert await queue.dequeue(timeout=1) is None
            assert await queue.dequeue(timeout=1) is None

    assert loop.time() - before >= 1.9
    assert [log["event"] for log in logs] == ["queue_unreachable"]
    assert queue.reached_at == float("-inf")
    assert queue.turned_at >= before


async def test_without_redis_an_order_raises_at_once() -> None:
    async with closed_port() as port, connect_patient(SecretStr(f"redis://127.0.0.1:{port}")) as redis:
        loop = asyncio.get_running_loop()
        before = loop.time()
        with pytest.raises(RedisError):
            await GatewayQueue(redis).order(DISCOVERY_POLL)

    assert loop.time() - before < 1
