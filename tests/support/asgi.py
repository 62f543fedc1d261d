"""Asking an ASGI application without a server: exact bytes in, everything it sent out."""

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from litestar.types import ASGIApp

Headers = Sequence[tuple[bytes, bytes]]


class Answer(msgspec.Struct, frozen=True):
    """One whole response."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a header that stands there at most once."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) < 2, values
        return values[0] if values else None

    def json(self) -> Any:
        """Return the body, which is JSON."""
        return msgspec.json.decode(self.body)


class Inbox:
    """What a server would hand to `receive`: the pieces of a body, then the client's leaving."""

    def __init__(self, pieces: Iterable[bytes] = (b"",), *, complete: bool = True) -> None:
        pieces = list(pieces)
        self._events: list[dict[str, Any]] = [
            {"type": "http.request", "body": piece, "more_body": not complete or number < len(pieces)}
            for number, piece in enumerate(pieces, 1)
        ]
        self.read = 0

    async def __call__(self) -> Any:
        self.read += 1
        return self._events.pop(0) if self._events else {"type": "http.disconnect"}


class Outbox:
    """What was handed to `send`."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    async def __call__(self, event: Any) -> None:
        self.events.append(event)

    def answer(self) -> Answer:
        """Return the response; it must be whole."""
        start, *parts = self.events
        assert start["type"] == "http.response.start"
        assert [part["more_body"] for part in parts] == [True] * (len(parts) - 1) + [False]
        body = b"".join(part["body"] for part in parts)
        return Answer(start["status"], tuple(start["headers"]), body)


def scope(
    method: str = "GET",
    raw_path: bytes = b"/",
    headers: Headers = (),
    *,
    query: bytes = b"",
    host: bytes = b"gateway",
    peer: str | None = "127.0.0.1",
) -> dict[str, Any]:
    """Return the scope that granian makes of a request line and headers."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote_to_bytes(raw_path).decode("utf-8", "replace"),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", host), *headers],
        "client": (peer, 1) if peer is not None else None,
        "server": ("127.0.0.1", 8000),
        "state": {},
        "extensions": {},
    }


async def ask(
    app: ASGIApp,
    method: str,
    raw_path: bytes,
    headers: Headers = (),
    *,
    query: bytes = b"",
    host: bytes = b"gateway",
    body: bytes = b"",
) -> Answer:
    """Ask the application and return its answer."""
    outbox = Outbox()
    asked: Any = scope(method, raw_path, headers, query=query, host=host)
    await app(asked, Inbox([body]), outbox)
    return outbox.answer()
