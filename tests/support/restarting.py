"""Callers that keep coming while replicas of the gateway are restarted, and what they hear."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final, NamedTuple

import httpx

from tests.support.asking import (
    MODEL,
    NATIVE_STREAM,
    NATIVE_WHOLE,
    OPENAI_STREAM,
    OPENAI_WHOLE,
    Shape,
    ask,
    ends_in_error,
)
from tests.support.edges import Edge
from tests.support.gateway import READY_WITHIN_S, Gateway, Key, Program

_MIX: Final = (NATIVE_STREAM, OPENAI_WHOLE, OPENAI_STREAM, NATIVE_WHOLE)
_KNOCK_AGAIN_S: Final = 0.05


class Replica(NamedTuple):
    """One app of a gateway that has several."""

    program: Program
    url: str

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    async def ready(self, gateway: Gateway) -> None:
        """Return once it says that it is ready."""
        async with asyncio.timeout(READY_WITHIN_S):
            while await gateway.status(f"{self.url}/readyz") != httpx.codes.OK:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)

    @contextmanager
    def told_to_stop(self) -> Iterator[None]:
        """Tell it to stop, and have it started again at the end of the block."""
        self.program.ask_to_stop()
        try:
            yield
        finally:
            self.program.kill()
            self.program.start()


def verdict(shape: Shape, reply: httpx.Response) -> str:
    """Say what came of a request."""
    if reply.status_code != httpx.codes.OK:
        return f"{reply.status_code}: {reply.text[:80]}"
    return "broken off" if shape.stream and ends_in_error(shape, reply) else "whole"


@asynccontextmanager
async def steady_requests(edge: Edge, key: Key, *, per_second: float) -> AsyncIterator[Counter[str]]:
    """Ask through an edge until the block ends, each time on a connection of its own; give what comes of it."""
    heard = Counter[str]()
    over = asyncio.Event()

    async def one(number: int) -> None:
        shape = _MIX[number % len(_MIX)]
        try:
            async with edge.client(headers=key.headers) as client:
                heard[verdict(shape, await ask(client, shape, MODEL))] += 1
        except httpx.TransportError as exc:
            heard[repr(exc)] += 1

    async def all_of_them() -> None:
        began, number = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while not over.is_set():
                group.create_task(one(number))
                number += 1
                with suppress(TimeoutError):
                    await asyncio.wait_for(
                        over.wait(), max(0.0, began + number / per_second - time.monotonic())
                    )

    asking = asyncio.create_task(all_of_them())
    try:
        yield heard
    finally:
        over.set()
        await asking


@asynccontextmanager
async def pressing_callers(replica: Replica, key: Key, *, callers: int) -> AsyncIterator[Counter[str]]:
    """Ask a replica as fast as it answers, each time on a connection of its own; give what is heard, by status.

    `refused` is who got no connection, `lost` who got one and no answer on it.
    """
    question = (
        f"GET /api/tags HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {key.text}\r\nConnection: close\r\n\r\n"
    ).encode()
    heard = Counter[str]()
    over = asyncio.Event()

    async def one() -> None:
        while not over.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", replica.port)
            except ConnectionRefusedError:
                heard["refused"] += 1
                await asyncio.sleep(_KNOCK_AGAIN_S)
                continue
            try:
                writer.write(question)
                heard[(await reader.read()).partition(b" ")[2][:3].decode() or "lost"] += 1
            except OSError:
                heard["lost"] += 1
            finally:
                writer.transport.abort()

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(one())
        try:
            yield heard
        finally:
            over.set()
