"""How an app process ends without losing a request, in the order in which it happens.

1. The parent sends `FAREWELL`: `/readyz` answers 503, and everything is served as before.
2. Towards the end of that time new connections are held back. Whoever got one before sends a request on it, and is
   served.
3. The parent sends SIGTERM: the server closes its door and its idle connections. A proxy that is refused asks another
   replica.
4. What runs finishes, or is cut at the deadline and told so. Then the server ends the lifespan.
"""

import asyncio
import ctypes
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

import structlog

from app.farewell import FAREWELL, farewell_s
from app.gateway.exchanges import Exchanges

HELD_PART: Final = 0.4
"""How much of the farewell new connections are held back. A client that was let in before has to get its request here
in that time; one that is held back asks again after a second, and finds the door closed."""

_SO_ATTACH_FILTER: Final = 26
_INSTRUCTIONS: Final = (
    (0x30, 0, 0, 13),  # the flags of a TCP header
    (0x54, 0, 0, 0x12),  # of these SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone: the first packet of a connection
    (0x06, 0, 0, 0),  # is dropped
    (0x06, 0, 0, 0xFFFFFFFF),  # any other is let through whole
)
_NO_NEWCOMERS: Final = ctypes.create_string_buffer(
    b"".join(struct.pack("=HBBI", *each) for each in _INSTRUCTIONS)
)
"""A classic socket filter. The kernel reads it through a pointer, so it has to stay where it is."""

_log = structlog.get_logger()


class Drain:
    """Lets a process end in order. Enter it once everything is there that requests need.

    The server ends the lifespan only when every stream has ended, so whoever wants streams to end in time has
    to hear of the stop when the server does.
    """

    def __init__(self, exchanges: Exchanges, deadline_s: float) -> None:
        self._exchanges: Final = exchanges
        self._deadline_s: Final = deadline_s
        self._previous: dict[int, Any] = {}
        self._ends_at: float | None = None
        self._cutting: asyncio.Task[None] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT, FAREWELL):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for timer in self._timers:
            timer.cancel()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._begin_farewell if number == FAREWELL else self._begin)
        previous: Callable[[int, FrameType | None], object] | int | None = self._previous[number]
        if callable(previous):
            previous(number, frame)

    def _begin_farewell(self) -> None:
        if self._ends_at is None:
            self._begin()
            before_s = farewell_s(self._deadline_s) * (1 - HELD_PART)
            self._timers.append(self._loop.call_later(before_s, hold_new_connections_back))

    def _begin(self) -> None:
        if self._ends_at is None:
            self._exchanges.draining = True
            self._ends_at = self._loop.time() + self._deadline_s
            self._timers.append(self._loop.call_at(self._ends_at, self._cut))

    def _cut(self) -> None:
        self._cutting = self._loop.create_task(self._exchanges.drain(0))

    async def finished(self) -> None:
        """Drain if nobody asked before, and wait until the last exchange has settled."""
        self._begin()
        if self._ends_at is not None:
            await self._exchanges.drain(max(0.0, self._ends_at - self._loop.time()))
        if self._cutting is not None:
            await self._cutting


def hold_new_connections_back() -> None:
    """Have the kernel ignore whoever asks for a new connection to a listening socket of this process.

    Connections that nobody has accepted yet are reset when their socket is closed, and with them requests that a
    proxy must not send a second time. So none may be waiting then. Elsewhere than on Linux this does nothing, and
    such a request can be lost.
    """
    if not sys.platform.startswith("linux"):
        return
    program = struct.pack("@HP", len(_INSTRUCTIONS), ctypes.addressof(_NO_NEWCOMERS))
    for listener in _listeners():
        with listener:
            try:
                listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
            except OSError as exc:
                _log.warning("new_connections_not_held_back", error=str(exc))


def _listeners() -> Iterator[socket.socket]:
    """Give a handle of every TCP socket on which this process listens."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError):  # closed meanwhile, or no socket
            if not entry.readlink().as_posix().startswith("socket:"):
                continue
            found = socket.socket(fileno=os.dup(int(entry.name)))
            if found.family in {socket.AF_INET, socket.AF_INET6} and found.getsockopt(
                socket.SOL_SOCKET, socket.SO_ACCEPTCONN
            ):
                yield found
            else:
                found.close()
