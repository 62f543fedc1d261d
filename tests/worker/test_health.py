"""The worker's health page over a real socket."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from db.redis.connection import connect_patient
from db.redis.queue import GatewayQueue
from worker.health import REACH_LIMIT_S, TURN_LIMIT_S, HealthPage


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[GatewayQueue]:
    async with connect_patient(SecretStr(redis_url)) as redis:
        yield GatewayQueue(redis)


async def talk(queue: GatewayQueue, said: bytes) -> bytes:
    server = await HealthPage(queue).listen("127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(said)
        async with asyncio.timeout(5):
            reply = await reader.read()
        writer.close()
        await writer.wait_closed()
    return reply


async def status(queue: GatewayQueue, path: str) -> int:
    return int((await talk(queue, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())).split(b" ")[1])


async def test_a_worker_that_just_started_lives_but_is_not_ready(queue: GatewayQueue) -> None:
    assert await status(queue, "/healthz") == 200
    assert await status(queue, "/readyz") == 503


async def test_a_worker_that_reached_redis_is_ready(queue: GatewayQueue) -> None:
    await queue.dequeue(timeout=0.01)

    assert await status(queue, "/healthz") == 200
    assert await status(queue, "/readyz?x=1") == 200


async def test_a_worker_that_lost_redis_lives_but_is_not_ready(queue: GatewayQueue) -> None:
    queue.reached_at = time.monotonic() - REACH_LIMIT_S - 1

    assert await status(queue, "/healthz") == 200
    assert await status(queue, "/readyz") == 503


async def test_a_worker_that_stopped_turning_does_not_live(queue: GatewayQueue) -> None:
    queue.turned_at = time.monotonic() - TURN_LIMIT_S - 1

    assert await status(queue, "/healthz") == 503


async def test_the_answer_is_one_small_json_object(queue: GatewayQueue) -> None:
    reply = await talk(queue, b"GET /healthz HTTP/1.1\r\n\r\n")

    assert reply.endswith(b'\r\n\r\n{"status":"ok"}\n')


async def test_head_has_no_body(queue: GatewayQueue) -> None:
    assert (await talk(queue, b"HEAD /healthz HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\n")


async def test_other_pages_do_not_exist(queue: GatewayQueue) -> None:
    assert await status(queue, "/metrics") == 404
    assert (await talk(queue, b"POST /healthz HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("junk", [b"\xff\xfe\r\n\r\n", b"GET\r\n\r\n", b"\r\n\r\n", b"x" * 20_000])
async def test_junk_is_hung_up_on(queue: GatewayQueue, junk: bytes) -> None:
    assert await talk(queue, junk) == b""
