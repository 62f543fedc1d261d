"""Ticks on a real Redis: as often as told, whoever is there to give them."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from saq.job import Status

from db.redis.connection import connect_patient
from db.redis.queue import GatewayQueue
from domain.jobs import DISCOVERY_POLL
from worker.ticker import Ticker

EVERY_S = 0.2


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_patient(SecretStr(redis_url)) as client:
        yield client


@pytest.fixture
def queue(redis: Redis) -> GatewayQueue:
    return GatewayQueue(redis)


def ticker(redis: Redis, queue: GatewayQueue, *, every_s: float = EVERY_S) -> Ticker:
    return Ticker(DISCOVERY_POLL, every_s=every_s, redis=redis, queue=queue)


async def next_order(queue: GatewayQueue) -> float:
    """Take the next order, call it done and return when that was."""
    async with asyncio.timeout(10):
        while True:
            job = await queue.dequeue(timeout=1)
            if job is not None:
                await job.finish(Status.COMPLETE)
                return asyncio.get_running_loop().time()


async def test_a_job_is_ordered_in_its_rhythm(redis: Redis, queue: GatewayQueue) -> None:
    tick = asyncio.create_task(ticker(redis, queue).run())
    times = [await next_order(queue) for _ in range(5)]
    tick.cancel()

    assert times[-1] - times[0] >= 4 * EVERY_S * 0.9


async def test_two_workers_do_not_double_the_rate(redis: Redis, queue: GatewayQueue) -> None:
    ticks = [asyncio.create_task(ticker(redis, queue).run()) for _ in range(2)]
    # Each process gives a first order at once.
    times = [await next_order(queue) for _ in range(8)][2:]
    for tick in ticks:
        tick.cancel()

    assert times[-1] - times[0] >= 5 * EVERY_S * 0.9


async def test_the_second_worker_goes_on_where_the_first_died(redis: Redis, queue: GatewayQueue) -> None:
    first = asyncio.create_task(ticker(redis, queue).run())
    await next_order(queue)
    second = asyncio.create_task(ticker(redis, queue).run())
    await next_order(queue)

    first.cancel()

    await next_order(queue)
    await next_order(queue)
    second.cancel()


async def test_the_first_order_does_not_wait_for_a_lease(redis: Redis, queue: GatewayQueue) -> None:
    await redis.set("nng:tick:discovery.poll", 1, px=3_600_000)

    tick = asyncio.create_task(ticker(redis, queue, every_s=3600).run())

    await next_order(queue)
    tick.cancel()


async def test_a_lease_longer_than_the_rhythm_is_cut(redis: Redis, queue: GatewayQueue) -> None:
    tick = asyncio.create_task(ticker(redis, queue).run())
    await next_order(queue)
    await redis.set("nng:tick:discovery.poll", 1, px=3_600_000)

    await next_order(queue)
    tick.cancel()


async def test_an_order_that_met_its_predecessor_is_repeated_soon(redis: Redis, queue: GatewayQueue) -> None:
    await queue.order(DISCOVERY_POLL)
    stuck = await queue.dequeue(timeout=1)
    assert stuck is not None
    tick = asyncio.create_task(ticker(redis, queue, every_s=3600).run())
    async with asyncio.timeout(5):
        while not 0 < await redis.pttl("nng:tick:discovery.poll") <= 1000:  # noqa: ASYNC110 - Redis has no event for it
            await asyncio.sleep(0.01)

    await stuck.finish(Status.COMPLETE)

    await next_order(queue)
    tick.cancel()
