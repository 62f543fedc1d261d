"""The client's side of one exchange: status, body, and the knowledge of what has left."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from litestar.types import HTTPResponseBodyEvent, HTTPResponseStartEvent, Send

from app.gateway.limit_headers import headers as limit_headers
from domain.limits import LimitState
from domain.stream_reader import StreamReader

JSON: Final = b"application/json; charset=utf-8"
TEXT: Final = b"text/plain; charset=utf-8"
EVENT_STREAM: Final = b"text/event-stream"

Header = tuple[bytes, bytes]

SERVER: Final[Header] = (b"server", b"neuronetz-gateway")
"""Stands in for the name and habits of the HTTP server below us."""

STREAM_HEADERS: Final[tuple[Header, ...]] = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))

HEARTBEAT: Final = b": waiting\n\n"
"""A comment among server-sent events: clients drop it, proxies see that the connection lives."""


class Downstream:
    """Sends one response.

    Attributes
    ----------
    started
        The status commit: from there on refusals are in-band.
    answering
        The answer itself, or a refusal, has begun. A response that is only `started` consists of heartbeats.
    writing_since
        The monotonic time at which the current write began, or 0.0. The process-wide watch cuts an exchange whose
        client has not taken a write for too long, which costs the relay one attribute per chunk instead of one
        timer.
    quiet_since
        The monotonic time of the last write, or since when heartbeats are allowed.
    beats
        Heartbeats are allowed: what is sent, or will be, is a stream of events.
    gone
        The client has left.
    reader
        Follows the stream that is being relayed, None while there is none.
    """

    __slots__ = (
        "_announced",
        "_beating",
        "_head_only",
        "_send",
        "_standing",
        "answering",
        "beats",
        "gone",
        "quiet_since",
        "reader",
        "request_id",
        "sent_bytes",
        "started",
        "status",
        "writing_since",
    )

    def __init__(self, send: Send, *, request_id: bytes, head_only: bool = False) -> None:
        self._send = send
        self.request_id: Final = request_id
        self._head_only = head_only
        self.started = False
        self.answering = False
        self.status = 0
        self.sent_bytes = 0
        self.writing_since = 0.0
        self.quiet_since = 0.0
        self.beats = False
        self.gone = False
        self.reader: StreamReader | None = None
        self._announced: tuple[Header, ...] = ()
        self._standing: Sequence[LimitState] = ()
        self._beating: asyncio.Task[None] | None = None

    def announce(self, standing: Sequence[LimitState]) -> None:
        """Have the answer tell how limits stand, whatever it will be.

        The words are found when this process has nothing better to do, which is while a backend works.
        """
        self._standing = standing
        asyncio.get_running_loop().call_soon(self._spell)

    def _spell(self) -> None:
        if self._standing:
            self._announced = limit_headers(self._standing)
            self._standing = ()

    async def start(self, status: int, content_type: bytes, extra: Iterable[Header] = ()) -> None:
        """Commit status and headers, unless a heartbeat has done so."""
        self.answering = True
        while self._beating is not None:
            await asyncio.wait((self._beating,))
        if self.started:
            return
        event = self._head(status, content_type, extra)
        self.writing_since = self.quiet_since = time.monotonic()
        await self._send(event)
        self.writing_since = 0.0

    async def write(self, body: bytes) -> None:
        """Send body bytes and wait until the connection has taken them."""
        while self._beating is not None:
            await asyncio.wait((self._beating,))
        self.sent_bytes += len(body)
        event: HTTPResponseBodyEvent = {"type": "http.response.body", "body": body, "more_body": True}
        self.writing_since = self.quiet_since = time.monotonic()
        await self._send(event)
        self.writing_since = 0.0

    async def finish(self, body: bytes = b"") -> None:
        """Send the last bytes and end the response properly."""
        self.beats = False
        while self._beating is not None:
            await asyncio.wait((self._beating,))
        if self._head_only:
            body = b""
        self.sent_bytes += len(body)
        event: HTTPResponseBodyEvent = {"type": "http.response.body", "body": body, "more_body": False}
        self.writing_since = time.monotonic()
        await self._send(event)
        self.writing_since = 0.0

    async def answer(
        self, status: int, content_type: bytes, body: bytes, extra: Iterable[Header] = ()
    ) -> None:
        """Send a whole response at once."""
        await self.start(status, content_type, ((b"content-length", b"%d" % len(body)), *extra))
        await self.finish(body)

    def allow_heartbeats(self) -> None:
        """Let the client be told from now on, wherever it waits for long, that it still does."""
        self.beats = True
        self.quiet_since = time.monotonic()

    def is_silent(self, since: float) -> bool:
        """Tell whether nothing was sent since then and a heartbeat may be: the client stands between two records."""
        return (
            self.beats
            and self.quiet_since <= since
            and not self.writing_since
            and (self.reader is None or not self.reader.overlong)
        )

    def beat(self) -> None:
        """Begin to send a heartbeat, with status and headers if it is the first thing to leave.

        Whatever is sent next waits for it.
        """
        head = None if self.started else self._head(200, EVENT_STREAM, STREAM_HEADERS)
        self.writing_since = self.quiet_since = time.monotonic()
        self._beating = asyncio.create_task(self._beat(head))

    def close(self) -> None:
        """End a heartbeat that the client does not take: nothing is sent any more."""
        self.beats = False
        if self._beating is not None:
            self._beating.cancel()

    async def _beat(self, head: HTTPResponseStartEvent | None) -> None:
        self.sent_bytes += len(HEARTBEAT)
        event: HTTPResponseBodyEvent = {"type": "http.response.body", "body": HEARTBEAT, "more_body": True}
        try:
            with suppress(Exception):  # the connection is closed, which the exchange hears in its own way
                if head is not None:
                    await self._send(head)
                await self._send(event)
        finally:
            self.writing_since = 0.0
            self._beating = None

    def _head(self, status: int, content_type: bytes, extra: Iterable[Header]) -> HTTPResponseStartEvent:
        """Commit to status and headers, and return what says so."""
        self._spell()
        self.started = True
        self.status = status
        headers: list[Header] = [
            (b"content-type", content_type),
            (b"x-request-id", self.request_id),
            SERVER,
            *self._announced,
            *extra,
        ]
        return {"type": "http.response.start", "status": status, "headers": headers}
