"""HTTP/1.1 over asyncio.Protocol and the httptools parser: small, quick, honest about lost clients."""

import asyncio
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal, Protocol, cast
from urllib.parse import unquote

import httptools

from app.simulator import framing
from app.simulator.framing import Chunked
from app.simulator.wire import PLAIN_BARE, WallClock, status_line

BUFFERED_BODY_BYTES: Final = 2048
"""Go sends a Content-Length only for bodies that fit its write buffer; longer ones go out chunked."""

Ending = Literal["completed", "client_closed", "cut"]


class Request:
    """One complete request."""

    __slots__ = ("arrived_ns", "body", "headers", "http10", "keep_alive", "method", "path", "query")

    def __init__(self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        path, _, query = target.partition(b"?")
        self.method = method.decode("ascii")
        self.path = unquote(path.decode("latin-1")) if b"%" in path else path.decode("latin-1")
        self.query = query.decode("latin-1")
        self.headers = headers
        self.body = body
        self.keep_alive = True
        self.http10 = False
        self.arrived_ns = time.monotonic_ns()

    def header(self, name: bytes) -> bytes | None:
        """Return the last value of a header; `name` in lower case."""
        found = None
        for key, value in self.headers:
            if key.lower() == name:
                found = value
        return found


class Application(Protocol):
    """What a connection needs from the program behind it."""

    clock: WallClock

    def serve(self, exchange: "Exchange") -> None:
        """Answer one request, now or later."""

    def connected(self, connection: "Connection") -> None:
        """Note a new connection."""

    def disconnected(self, connection: "Connection") -> None:
        """Forget a connection."""


class Exchange:
    """One request and its one response.

    `on_end` is called exactly once, when the response is complete, cut by us, or its client has gone.
    """

    __slots__ = ("_open", "connection", "frame", "on_end", "on_gone", "on_writable", "request")

    def __init__(self, request: Request, connection: "Connection") -> None:
        self.request = request
        self.frame: Chunked = framing.UNTIL_CLOSE if request.http10 else framing.CHUNKED
        self.on_end: Callable[[Ending], None] | None = None
        self.on_gone: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        self.connection = connection
        self._open = True

    @property
    def open(self) -> bool:
        """Whether the response is still owed."""
        return self._open

    @property
    def writable(self) -> bool:
        """Whether the client keeps up with what was written so far."""
        return self.connection.writable

    def whole(self, status: int, content_type: bytes, body: bytes, headers: bytes = b"") -> None:
        """Send a complete response."""
        bodiless = self.request.method == "HEAD"
        if not bodiless and (self.frame is not framing.CHUNKED or len(body) > BUFFERED_BODY_BYTES):
            self.begin(status, content_type, body, headers)
            self.complete()
            return
        head = self._head(status, content_type, headers, b"Content-Length: %d\r\n" % len(body))
        self.connection.write(head if bodiless else head + body)
        self._end("completed", close=not self.request.keep_alive)

    def begin(self, status: int, content_type: bytes, first: bytes, headers: bytes = b"") -> None:
        """Send the head and the first piece of the body in one write, as Go's first flush does."""
        head = self._head(status, content_type, headers, self.frame.header)
        self.connection.write(head + self.frame.wrap(first) if first else head)

    def push(self, data: bytes) -> None:
        """Send a further piece of the body."""
        self.connection.write(self.frame.wrap(data))

    def complete(self, last: bytes = b"") -> None:
        """End the body properly, after a last piece if there is one."""
        frame = self.frame
        self.connection.write(frame.wrap(last) + frame.end() if last else frame.end())
        self._end("completed", close=frame.closes or not self.request.keep_alive)

    def truncate(self) -> None:
        """End the framing cleanly although the content is not finished."""
        self.connection.write(self.frame.end())
        self._end("cut", close=self.frame.closes or not self.request.keep_alive)

    def raw(self, data: bytes) -> None:
        """Write bytes that are nobody's idea of HTTP."""
        self.connection.write(data)

    def hang_up(self) -> None:
        """Close the connection in the middle of things (FIN, after what was written)."""
        self._end("cut", close=True)

    def reset(self) -> None:
        """Break the connection (RST); what was written but not yet sent may be lost."""
        self._end("cut", close=False)
        self.connection.reset()

    def gone(self) -> None:
        """Note that the client has left (called by the connection)."""
        on_gone = self.on_gone
        self._end("client_closed", close=False)
        if on_gone is not None:
            on_gone()

    def _head(self, status: int, content_type: bytes, headers: bytes, framing_header: bytes) -> bytes:
        closing = b"" if self.request.keep_alive and not self.frame.closes else b"Connection: close\r\n"
        return b"%bContent-Type: %b\r\n%bDate: %b\r\n%b%b\r\n" % (
            status_line(status),
            content_type,
            headers,
            self.connection.app.clock.http_date(),
            framing_header,
            closing,
        )

    def _end(self, ending: Ending, *, close: bool) -> None:
        if not self._open:
            return
        self._open = False
        if self.on_end is not None:
            self.on_end(ending)
        if ending != "client_closed":
            self.connection.finished(close=close)
        self.on_end = self.on_gone = self.on_writable = None


class Connection(asyncio.Protocol):
    """One TCP connection. Pipelined requests wait until the one before them is answered."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.writable = True
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._waiting: deque[Request] = deque()
        self._exchange: Exchange | None = None
        self._last = False

    @property
    def busy(self) -> bool:
        """Whether a response is owed."""
        return self._exchange is not None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self.app.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
        """Tell the running exchange that its client has gone."""
        self._transport = None
        self.app.disconnected(self)
        self._waiting.clear()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.gone()

    def data_received(self, data: bytes) -> None:
        """Feed the parser; what is not HTTP gets Go's plain 400 and the door."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.close()
        except httptools.HttpParserError:
            self.write(
                status_line(400) + b"Content-Type: %b; charset=utf-8\r\n"
                b"Connection: close\r\n\r\n400 Bad Request" % PLAIN_BARE
            )
            self.close()

    def pause_writing(self) -> None:
        """Note that the client does not keep up."""
        self.writable = False

    def resume_writing(self) -> None:
        """Let a waiting stream go on."""
        self.writable = True
        exchange = self._exchange
        if exchange is not None and exchange.on_writable is not None:
            resume, exchange.on_writable = exchange.on_writable, None
            resume()

    # httptools callbacks

    def on_message_begin(self) -> None:
        """Start a request."""
        self._target = b""
        self._headers = []
        self._body = []

    def on_url(self, url: bytes) -> None:
        """Collect the request target, which may come in pieces."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect one header."""
        self._headers.append((name, value))
        if len(name) == 6 and name.lower() == b"expect":  # noqa: PLR2004 - length first, it is cheap
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Collect a piece of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer the request, or queue it behind the one being answered."""
        body = self._body
        request = Request(
            self._parser.get_method(),
            self._target,
            self._headers,
            body[0] if len(body) == 1 else b"".join(body),
        )
        request.keep_alive = self._parser.should_keep_alive() and not self._last
        request.http10 = self._parser.get_http_version() == "1.0"
        if self._exchange is None:
            self._serve(request)
        else:
            self._waiting.append(request)

    # for exchanges and the application

    def write(self, data: bytes) -> None:
        """Write, unless the connection is gone."""
        if self._transport is not None:
            self._transport.write(data)

    def finished(self, *, close: bool) -> None:
        """Go on after an exchange: close, or serve the next request."""
        self._exchange = None
        if close or self._last:
            self.close()
        elif self._waiting:
            self._serve(self._waiting.popleft())

    def close(self) -> None:
        """Close after everything written has been sent."""
        if self._transport is not None:
            self._transport.close()

    def close_when_idle(self) -> None:
        """Close now if nothing is owed, else after the running response."""
        self._last = True
        if self._exchange is None:
            self.close()

    def reset(self) -> None:
        """Break the connection so that the peer sees a reset, not an end."""
        if self._transport is None:
            return
        # A duplicate of the descriptor shares its options; uvloop's own socket object cannot set any.
        original = self._transport.get_extra_info("socket")
        with socket.socket(fileno=socket.dup(original.fileno())) as duplicate:
            duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _serve(self, request: Request) -> None:
        exchange = Exchange(request, self)
        self._exchange = exchange
        self.app.serve(exchange)


class Delay:
    """A cancellable sequence of timed calls on behalf of one exchange; stops when the client goes."""

    __slots__ = ("_handle", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, exchange: Exchange) -> None:
        self._loop = loop
        self._handle: asyncio.Handle | None = None
        exchange.on_gone = self.cancel

    def then(self, delay_s: float, call: Callable[..., object], *args: Any) -> None:
        """Call after `delay_s` seconds (in the next turn of the loop for 0)."""
        if delay_s <= 0:
            self._handle = self._loop.call_soon(call, *args)
        else:
            self._handle = self._loop.call_later(delay_s, call, *args)

    def cancel(self) -> None:
        """Forget the pending call."""
        if self._handle is not None:
            self._handle.cancel()
