"""Asking for an early poll: soon, and not once per request."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from app.gateway.early_poll import EarlyPoll
from db.redis.connection import connect_patient
from db.redis.queue import GatewayQueue
from domain.jobs import DISCOVERY_POLL
from tests.support.scripted_backend import closed_port


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[GatewayQueue]:
    async with connect_patient(SecretStr(redis_url)) as redis:
        queue = GatewayQueue(redis)
        yield queue
        await queue.disconnect()


async def test_a_thousand_requests_order_one_poll(queue: GatewayQueue) -> None:
    early = EarlyPoll(queue)
    running = asyncio.create_task(early.run())
    for _ in range(1000):
        early.request()

    async with asyncio.timeout(5):
        job = await queue.dequeue(timeout=5)

    assert job is not None
    assert job.function == DISCOVERY_POLL.name
    assert await queue.count("queued") == 0
    running.cancel()
    await asyncio.wait([running])


async def test_a_queue_out_of_reach_is_asked_again_next_time() -> None:
    async with closed_port() as port, connect_patient(SecretStr(f"redis://127.0.0.1:{port}/0")) as nobody:
        queue = GatewayQueue(nobody)
        early = EarlyPoll(queue)
        running = asyncio.create_task(early.run())

        early.request()
        await asyncio.wait([running], timeout=0.2)

        assert not running.done()
        running.cancel()
        await asyncio.wait([running])
        await queue.disconnect()
