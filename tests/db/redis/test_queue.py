"""The job queue on a real Redis: our prefix, one job per key, and nobody stopped by junk or an outage."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import RedisError
from saq.job import Status
from structlog.testing import capture_logs

from db.redis.connection import connect_patient
from db.redis.queue import GatewayQueue
from domain.jobs import DISCOVERY_POLL, REVOCATION_FANOUT, USAGE_ACCOUNT
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
    found = [await sweep(queue), await sweep(queue)]
    job = await queue.dequeue(timeout=1)

    assert nothing is None
    assert found == [[], [queue.job_id("junk")]]
    assert job is not None


async def sweep(queue: GatewayQueue) -> list[str]:
    """Sweep as a worker does when the last sweep is long enough ago, without waiting for anybody."""
    await queue.redis.delete(queue.namespace("sweep"))
    return await queue.sweep(abort=0.01)


async def test_a_job_just_dequeued_is_no_orphan(queue: GatewayQueue) -> None:
    await queue.order(REVOCATION_FANOUT)
    job = await queue.dequeue(timeout=1)
    assert job is not None

    assert await sweep(queue) == []
    await job.update(status=Status.ACTIVE)
    assert await sweep(queue) == []
    await job.finish(Status.COMPLETE)

    assert await queue.order(REVOCATION_FANOUT)


async def test_each_new_job_of_a_key_counts_as_found_for_the_first_time(queue: GatewayQueue) -> None:
    for _ in range(3):
        assert await queue.order(REVOCATION_FANOUT)
        job = await queue.dequeue(timeout=1)
        assert job is not None
        assert await sweep(queue) == []
        await job.finish(Status.COMPLETE)


async def test_a_job_whose_worker_died_before_its_start_waits_again_after_two_sweeps(
    queue: GatewayQueue, redis: Redis
) -> None:
    await queue.order(REVOCATION_FANOUT)
    await queue.dequeue(timeout=1)

    found = [await sweep(queue), await sweep(GatewayQueue(redis))]

    assert found == [[], [queue.job_id(REVOCATION_FANOUT.key)]]
    assert await queue.dequeue(timeout=1) is not None


async def test_a_job_whose_worker_fell_silent_can_be_ordered_again_after_two_sweeps(
    queue: GatewayQueue,
) -> None:
    await queue.order(REVOCATION_FANOUT)
    job = await queue.dequeue(timeout=1)
    assert job is not None
    job.attempts += 1
    await job.update(status=Status.ACTIVE)
    job.touched -= 1000 * (REVOCATION_FANOUT.heartbeat_s + 1)
    await queue.redis.set(job.id, queue.serialize(job))

    found = [await sweep(queue), await sweep(queue)]

    assert found == [[], [job.id]]
    assert await queue.order(REVOCATION_FANOUT)


async def test_a_job_that_beats_between_the_sweeps_is_left_alone(queue: GatewayQueue) -> None:
    await queue.order(REVOCATION_FANOUT)
    job = await queue.dequeue(timeout=1)
    assert job is not None
    await job.update(status=Status.ACTIVE)

    for _ in range(3):
        job.touched -= 1000 * (REVOCATION_FANOUT.heartbeat_s + 1)
        await queue.redis.set(job.id, queue.serialize(job))
        assert await sweep(queue) == []


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
