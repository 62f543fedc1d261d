"""Patience of the Redis clients, measured against servers that answer late, never or not at all."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import SecretStr
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from db.redis.connection import connect_hot, connect_patient
from tests.support.scripted_backend import closed_port, speaking_server


async def seconds_to_fail(ask: Callable[[], Awaitable[object]]) -> float:
    loop = asyncio.get_running_loop()
    before = loop.time()
    with pytest.raises((RedisError, OSError)):
        await ask()
    return loop.time() - before


async def test_a_hot_question_to_a_silent_server_ends_in_time() -> None:
    async def listen(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with (
        speaking_server(listen) as url,
        connect_hot(SecretStr(url.replace("http", "redis")), timeout_ms=50) as redis,
    ):
        taken = sorted([await seconds_to_fail(lambda: redis.get("x")) for _ in range(5)])

    assert 0.04 < taken[2] < 0.5


async def test_a_hot_question_to_a_closed_port_fails_at_once() -> None:
    async with (
        closed_port() as port,
        connect_hot(SecretStr(f"redis://127.0.0.1:{port}"), timeout_ms=10_000) as redis,
    ):
        assert await seconds_to_fail(lambda: redis.get("x")) < 1


async def test_a_blocking_read_of_the_patient_client_is_not_cut(redis_url: str) -> None:
    async with connect_patient(SecretStr(redis_url)) as redis:
        assert await redis.blpop(["nothing"], timeout=1) is None


async def test_a_connection_that_was_closed_a_moment_ago_fails_like_any_that_is_lost(redis_url: str) -> None:
    async with connect_patient(SecretStr(redis_url)) as redis:
        connection: Any = await redis.connection_pool.get_connection()  # type: ignore[no-untyped-call]
        connection._writer.transport.abort()  # noqa: SLF001 - as if Redis had died between two commands
        await asyncio.sleep(0)

        with pytest.raises(RedisConnectionError):
            await connection.send_command("PING")
