"""Many callers at once: all connections are open before the first request leaves, and all requests leave together."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import cycle, islice
from typing import Final, NamedTuple, cast

_HEAD_END: Final = b"\r\n\r\n"
_OPEN_AT_ONCE: Final = 100
LOST: Final = 0
"""Stands for the status of an answer that never came."""


class Answer(NamedTuple):
    """What one caller was told: by whom, the status, and how many seconds after it had asked."""

    port: int
    status: int
    after_s: float


class _Caller(asyncio.Protocol):
    """One connection. What follows the head of the answer is dropped."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._head = b""
        self._asked_at = 0.0
        self._answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Read the status once the head is whole."""
        if not self._answer.done():
            self._head += data
            if _HEAD_END in self._head:
                self._answered(int(self._head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
        """Note that no answer came."""
        if not self._answer.done():
            self._answered(LOST)

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        """Send the request and return what will be the answer."""
        self._asked_at = time.perf_counter()
        self._transport.write(request)
        return self._answer

    def leave(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def _answered(self, status: int) -> None:
        self._answer.set_result(Answer(self._port, status, time.perf_counter() - self._asked_at))


class Crowd:
    """Callers who have connected and wait for the word."""

    def __init__(self, callers: Sequence[_Caller]) -> None:
        self._callers = callers

    async def ask(self, request: bytes) -> list[Answer]:
        """Let everybody ask the same at once, and only once; return when each has the head of an answer."""
        return await asyncio.gather(*[caller.ask(request) for caller in self._callers])


@asynccontextmanager
async def crowd(ports: Sequence[int], callers: int) -> AsyncIterator[Crowd]:
    """Connect callers, dealt out evenly over the ports; they leave, whatever they were told, when the block ends."""
    loop = asyncio.get_running_loop()
    connected: list[_Caller] = []
    dealt = islice(cycle(ports), callers)
    try:
        while batch := list(islice(dealt, _OPEN_AT_ONCE)):
            opened = await asyncio.gather(
                *(loop.create_connection(partial(_Caller, port), "127.0.0.1", port) for port in batch)
            )
            connected += [caller for _, caller in opened]
        yield Crowd(connected)
    finally:
        for caller in connected:
            caller.leave()
        await asyncio.sleep(0)  # the sockets close in the next turn of the loop
