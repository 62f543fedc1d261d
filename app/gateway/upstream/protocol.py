"""One HTTP/1.1 connection: a request goes out, a response comes in, then the next one.

The parser (llhttp, strict) finds the framing; this module decides what a head may look like, how much may be
held in memory, and whether the connection can carry another request. Only `exchange` and `read` wait, and
both drop the connection at once when they are cancelled, unless told to keep an unanswered request.
"""

import asyncio
import math
import ssl
from typing import Protocol, cast

import httptools

from domain.errors import Sent, UpstreamFailed
from domain.ports import Keeps, keeps_nothing
from domain.values import Pieces

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 128
MAX_INTERIM_RESPONSES = 8
PAUSE_READING_ABOVE_BYTES = 256 * 1024

# Chunk sizes, extensions and trailers are read and dropped. Each body piece pays for a chunk header of
# ordinary length; whatever exceeds that is bounded for the response as a whole.
_FRAMING_BYTES_PER_PIECE = 32
_MAX_SURPLUS_FRAMING_BYTES = 64 * 1024

_ONE_WRITE_BELOW_BYTES = 64 * 1024
_WRITE_BYTES = 256 * 1024
"""How much of a large body is written at once: it is copied, and may be encrypted, while everybody else waits."""
_HTTP_VERSIONS = frozenset({"1.0", "1.1"})
_FRAMING_HEADERS = frozenset({b"content-length", b"transfer-encoding"})
_BODILESS_STATUSES = frozenset({204, 304})
_FIRST_FINAL_STATUS = 200
_SWITCHING_PROTOCOLS = 101
_STATUSES = range(100, 600)


class ConnectionOwner(Protocol):
    """Who keeps connections between their requests."""

    def released(self, connection: "Connection") -> None:
        """Take back a connection that can carry another request."""

    def lost(self, connection: "Connection") -> None:
        """Forget a connection whose socket is closed."""


class _Refused(Exception):  # noqa: N818 - stops the parser, never leaves this module
    """The response is not one we accept."""


class Connection(asyncio.Protocol):
    """One socket to a backend, carrying one request at a time.

    Parameters
    ----------
    owner
        Told when the connection is free again, and when it is gone.
    first_byte_s, idle_s
        Longest wait for a complete response head, and between two pieces of the body, in seconds.
    """

    __slots__ = (
        "_complete", "_failure", "_first_byte_s", "_framing", "_head_bytes", "_header_count", "_held_bytes",
        "_idle_s", "_in_use", "_interims", "_is_full", "_is_sending", "_loop", "_overtaken", "_owner", "_parser",
        "_paused", "_pieces", "_refusal", "_reusable", "_transport", "_until_eof", "_waiter", "alive", "deadline",
        "head_complete", "headers", "reused", "status",
    )  # fmt: skip

    _loop: asyncio.AbstractEventLoop
    _transport: asyncio.Transport

    def __init__(self, *, owner: ConnectionOwner, first_byte_s: float, idle_s: float) -> None:
        self._owner = owner
        self._first_byte_s = first_byte_s
        self._idle_s = idle_s
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._in_use = False
        self._paused = False
        self._is_full = False
        self._is_sending = False
        self._pieces: list[bytes] = []
        self._reset()
        self.alive = False
        """False as soon as the socket cannot carry another byte."""
        self.reused = False
        """Has carried a request before the present one."""
        self.deadline = math.inf
        """When the owner must call `expire`, in loop time."""

    def _reset(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.head_complete = False
        self._complete = False
        self._failure: tuple[str, BaseException | None] | None = None
        self._refusal = "protocol"
        self._overtaken = False
        self._reusable = False
        self._until_eof = False
        self._head_bytes = 0
        self._header_count = 0
        self._interims = 0
        self._framing = 0
        self._held_bytes = 0

    # What the holder of the connection calls.

    @property
    def unanswered(self) -> bool:
        """True if not one byte came back for the present request."""
        return self._head_bytes == 0

    async def exchange(self, head: bytes, body: bytes | Pieces, keeps: Keeps = keeps_nothing) -> None:
        """Send one request and wait until the head of its response is here.

        A large body is written as the backend takes it, in the time there is for the head. If the wait is cancelled
        afterwards, `keeps` decides whether the request stays open until its first byte or its deadline.

        Raises
        ------
        UpstreamFailed
            `closed`, `reset`, `network`, `tls`, `first_byte_timeout`, `protocol` or `oversize`.
        """
        self._reset()
        if not self.alive:
            raise UpstreamFailed("closed", Sent.NOTHING)
        self._in_use = True
        within_s = self._first_byte_s
        if isinstance(body, bytes) and len(body) <= _ONE_WRITE_BELOW_BYTES:
            self._transport.write(head + body)
        else:
            until = self._loop.time() + within_s
            await self._send(head, (body,) if isinstance(body, bytes) else body, until)
            within_s = until - self._loop.time()
        if not self.head_complete and self._failure is None:
            await self._news(within_s, keeps)
        if not self.head_complete:
            raise self._error()

    async def read(self) -> bytes:
        """Return what has arrived of the body, waiting for it if need be; b"" at its end.

        Raises
        ------
        UpstreamFailed
            `closed`, `reset`, `network`, `tls`, `idle_timeout`, `protocol` or `oversize`, after everything
            that arrived before has been read.
        """
        while not self._pieces:
            if self._complete:
                return b""
            if self._failure is not None:
                raise self._error()
            await self._news(self._idle_s)
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._drop_held()
        return data

    def release(self) -> None:
        """Give the connection back if another request may follow, else close it at once."""
        if self._complete and self._reusable and self.alive:
            self._drop_held()
            self._in_use = False
            self.reused = True
            self._owner.released(self)
        else:
            self.fail("closed")

    def expire(self) -> None:
        """End what has lasted too long: a wait for the backend, or a rest in the pool."""
        self.fail("idle_timeout" if self.head_complete else "first_byte_timeout")

    def fail(self, kind: str, cause: BaseException | None = None) -> None:
        """Close the socket at once; whoever waits for it gets `UpstreamFailed(kind)`."""
        if self._failure is None and not self._complete:
            self._failure = (kind, cause)
        self.alive = False
        self._transport.abort()
        self._wake()

    async def _send(self, head: bytes, body: Pieces, until: float) -> None:
        """Write a request piece by piece, until the answer or the end of the connection overtakes it."""
        self._is_sending = True
        try:
            self._transport.write(head)
            for piece in body:
                view = memoryview(piece)
                for start in range(0, len(view), _WRITE_BYTES):
                    self._transport.write(view[start : start + _WRITE_BYTES])
                    await asyncio.sleep(0)
                    while self._is_full and self._is_unsettled:
                        await self._news(until - self._loop.time())
                    if not self._is_unsettled:
                        return
        except BaseException:
            self._drop()
            raise
        finally:
            self._is_sending = False

    @property
    def _is_unsettled(self) -> bool:
        """Whether neither the head of the response nor the end of the connection is here."""
        return self.alive and not self.head_complete

    async def _news(self, within_s: float, keeps: Keeps = keeps_nothing) -> None:
        if self._waiter is not None:
            raise RuntimeError("a connection has one reader")
        waiter = self._waiter = self._loop.create_future()
        self.deadline = self._loop.time() + within_s
        try:
            await waiter
        except BaseException:
            self._waiter = None
            if self.alive and self.unanswered and keeps(self._drop):
                self._in_use = False  # so whatever comes closes it, and so does the deadline
            else:
                self._drop()
            raise
        self.deadline = math.inf

    def _drop(self) -> None:
        self.fail("closed")

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def _error(self) -> UpstreamFailed:
        kind, cause = self._failure or ("closed", None)
        error = UpstreamFailed(kind, Sent.HEAD_RECEIVED if self.head_complete else Sent.REQUEST)
        error.__cause__ = cause
        return error

    def _drop_held(self) -> None:
        self._pieces = []
        self._held_bytes = 0
        if self._paused:
            self._paused = False
            if self.alive:
                self._transport.resume_reading()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._loop = asyncio.get_running_loop()
        self._transport = cast(asyncio.Transport, transport)
        self.alive = True

    def data_received(self, data: bytes) -> None:
        """Parse what came in and wake the reader if it was waiting for that."""
        if not self._in_use or self._complete or not self.alive:
            # Bytes that answer nothing: whoever sends them is not to be trusted with another request.
            self.fail("protocol")
            return
        if self.head_complete:
            self._feed_body(data)
        else:
            self._feed_head(data)
        if self._held_bytes > PAUSE_READING_ABOVE_BYTES and not self._paused and self.alive:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """Settle what the end of input means for the present response."""
        self._end(None)

    def pause_writing(self) -> None:
        """Note that the backend does not take any more for now."""
        self._is_full = True

    def resume_writing(self) -> None:
        """Let the rest of the request follow."""
        self._is_full = False
        if self._is_sending:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Settle the present response and leave the owner."""
        self._end(exc)
        del self._parser  # it refers back to us; without the cycle the memory is free at once
        self._owner.lost(self)

    def _end(self, exc: Exception | None) -> None:
        if exc is None and self._until_eof and self._failure is None:
            self._complete = True
        self.fail(_kind_of(exc), exc)

    def _feed_head(self, data: bytes) -> None:
        room = MAX_HEAD_BYTES - self._head_bytes
        self._head_bytes += len(data)
        self._parse(data[:room])
        if self.head_complete:
            if len(data) > room:
                self._parse(data[room:])
            self._wake()
        elif len(data) >= room and self._failure is None:
            self.fail("oversize")

    def _feed_body(self, data: bytes) -> None:
        pieces, held_bytes = len(self._pieces), self._held_bytes
        self._parse(data)
        surplus = (
            self._framing + len(data) - (self._held_bytes - held_bytes)
            - _FRAMING_BYTES_PER_PIECE * (len(self._pieces) - pieces)
        )  # fmt: skip
        self._framing = max(surplus, 0)
        if surplus > _MAX_SURPLUS_FRAMING_BYTES:
            self.fail("oversize")
        elif self._pieces or self._complete:
            self._wake()

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._reusable = False
            if not self._complete:
                self.fail(self._refusal, exc)

    # What the parser calls, inside `feed_data`. An exception stops it for good.

    def on_message_begin(self) -> None:
        """Refuse a second response to one request."""
        if self._complete:
            raise _Refused

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note one header line. Trailers come this way too and are dropped."""
        if self.head_complete:
            return
        self._header_count += 1
        if self._header_count > MAX_HEADERS:
            self._refusal = "oversize"
            raise _Refused
        name = name.lower()
        if name in _FRAMING_HEADERS and name in self.headers:
            raise _Refused
        self.headers[name] = value.rstrip(b" \t")

    def on_headers_complete(self) -> None:
        """Judge the head: skip an interim one, refuse what could be framed in two ways."""
        version = self._parser.get_http_version()
        status = self._parser.get_status_code()
        if version not in _HTTP_VERSIONS or status not in _STATUSES:
            raise _Refused
        if status < _FIRST_FINAL_STATUS:
            self._interims += 1
            if status == _SWITCHING_PROTOCOLS or self._interims > MAX_INTERIM_RESPONSES:
                raise _Refused
            self.headers = {}
            return
        coding = self.headers.get(b"transfer-encoding")
        if coding is not None and (coding.lower() != b"chunked" or version == "1.0"):
            raise _Refused
        self.status = status
        self._until_eof = (
            coding is None and b"content-length" not in self.headers and status not in _BODILESS_STATUSES
        )
        # An answer that overtakes its request leaves the rest of that body on the wire, before the next one.
        self._overtaken = self._is_sending or self._transport.get_write_buffer_size() > 0
        self.head_complete = True

    def on_body(self, data: bytes) -> None:
        """Hold one piece of the body for the reader."""
        self._pieces.append(data)
        self._held_bytes += len(data)

    def on_message_complete(self) -> None:
        """Note that the response is here as a whole; an interim one does not count."""
        if self.head_complete:
            self._complete = True
            # Asked only now: the parser heeds `Connection: close` in a trailer too, and then takes no more input.
            self._reusable = self._parser.should_keep_alive() and not self._overtaken


def _kind_of(exc: Exception | None) -> str:
    if exc is None:
        return "closed"
    if isinstance(exc, ConnectionError):
        return "reset"
    if isinstance(exc, ssl.SSLError):
        return "tls"
    return "network"
