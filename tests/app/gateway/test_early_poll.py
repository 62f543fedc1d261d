"""Asking for an early poll: soon, and not once per request."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from redis.exceptions import ConnectionError as RedisConnectionError

from app.gateway.early_poll import EarlyPoll
from db.redis.connection import connect_patient
from db.redis.queue import GatewayQueue
from domain.jobs import DISCOVERY_POLL, JobOrder
from tests.support.waiting import until

SHORT_S = 0.02


class Queue:
    """Counts orders; refuses them while `fails` is set."""

    def __init__(self) -> None:
        self.orders: list[JobOrder] = []
        self.fails: Exception | None = None

    async def order(self, order: JobOrder) -> bool:
        self.orders.append(order)
        if self.fails is not None:
            raise self.fails
        return True


class World:
    """An early poll that runs."""

    def __init__(self) -> None:
        self.queue = Queue()
        self.early = EarlyPoll(self.queue, min_interval_s=SHORT_S)
        self.running = asyncio.create_task(self.early.run())

    async def ordered(self, count: int) -> None:
        """Wait for so many orders, and a while longer for one too many."""
        await until(lambda: len(self.queue.orders) >= count, within_s=5)
        await asyncio.wait([self.running], timeout=4 * SHORT_S)
        assert self.queue.orders == [DISCOVERY_POLL] * count


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    world.running.cancel()
    await asyncio.wait([world.running])


async def test_nobody_asks_nothing_is_ordered(world: World) -> None:
    await world.ordered(0)


async def test_a_thousand_requests_order_one_poll(world: World) -> None:
    for _ in range(1000):
        world.early.request()

    await world.ordered(1)


async def test_a_request_after_an_order_orders_another(world: World) -> None:
    world.early.request()
    await world.ordered(1)
    world.early.request()

    await world.ordered(2)


@pytest.mark.parametrize("trouble", [RedisConnectionError(), OSError(), TimeoutError()])
async def test_a_queue_out_of_reach_is_asked_again_at_the_next_request(
    world: World, trouble: Exception
) -> None:
    world.queue.fails = trouble
    world.early.request()
    await world.ordered(1)
    world.queue.fails = None
    world.early.request()

    await world.ordered(2)


async def test_the_order_arrives_in_the_real_queue(redis_url: str) -> None:
    async with connect_patient(SecretStr(redis_url)) as redis:
        queue = GatewayQueue(redis)
        early = EarlyPoll(queue)
        running = asyncio.create_task(early.run())
        early.request()

        job = await queue.dequeue(timeout=5)

        assert job is not None
        assert job.function == DISCOVERY_POLL.name
        running.cancel()
        await asyncio.wait([running])
        await queue.disconnect()
