"""The client's side of one exchange: status, body, and the knowledge of what has left."""

import time
from collections.abc import Iterable
from typing import Final

from litestar.types import HTTPResponseBodyEvent, HTTPResponseStartEvent, Send

from domain.stream_reader import StreamReader

JSON: Final = b"application/json; charset=utf-8"
TEXT: Final = b"text/plain; charset=utf-8"

Header = tuple[bytes, bytes]

SERVER: Final[Header] = (b"server", b"neuronetz-gateway")
"""Stands in for the name and habits of the HTTP server below us."""


class Downstream:
    """Sends one response. `started` is the status commit: from there on refusals are in-band.

    `writing_since` is the monotonic time at which the current write began, or 0.0; the process-wide watch cuts an
    exchange whose client has not taken a write for too long, which costs the relay one attribute per chunk
    instead of one timer. `reader` follows the stream that is being relayed, None while there is none.
    """

    __slots__ = (
        "_announced",
        "_head_only",
        "_send",
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
        self.status = 0
        self.sent_bytes = 0
        self.writing_since = 0.0
        self.reader: StreamReader | None = None
        self._announced: tuple[Header, ...] = ()

    def announce(self, headers: tuple[Header, ...]) -> None:
        """Have the answer carry these headers, whatever it will be."""
        self._announced = headers

    async def start(self, status: int, content_type: bytes, extra: Iterable[Header] = ()) -> None:
        """Commit status and headers."""
        headers: list[Header] = [
            (b"content-type", content_type),
            (b"x-request-id", self.request_id),
            SERVER,
            *self._announced,
            *extra,
        ]
        self.started = True
        self.status = status
        event: HTTPResponseStartEvent = {"type": "http.response.start", "status": status, "headers": headers}
        self.writing_since = time.monotonic()
        await self._send(event)
        self.writing_since = 0.0

    async def write(self, body: bytes) -> None:
        """Send body bytes and wait until the connection has taken them."""
        self.sent_bytes += len(body)
        event: HTTPResponseBodyEvent = {"type": "http.response.body", "body": body, "more_body": True}
        self.writing_since = time.monotonic()
        await self._send(event)
        self.writing_since = 0.0

    async def finish(self, body: bytes = b"") -> None:
        """Send the last bytes and end the response properly."""
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
