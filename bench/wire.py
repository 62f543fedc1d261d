"""HTTP/1.1 as bytes: requests, and a connection that asks one thing at a time."""

import asyncio
import json
import time
from contextlib import suppress

OK = 200


def get(path: str, key: str | None = None) -> bytes:
    """Return the bytes of one GET."""
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n{_authorization(key)}\r\n".encode()


def post(path: str, body: bytes, key: str | None = None) -> bytes:
    """Return the bytes of one POST of JSON."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\n{_authorization(key)}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def chat(key: str, model: str, *, stream: bool) -> bytes:
    """Return the bytes of a short chat request."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    return post("/api/chat", json.dumps(body).encode(), key)


def _authorization(key: str | None) -> str:
    return "" if key is None else f"Authorization: Bearer {key}\r\n"


class Connection:
    """One kept-alive HTTP connection that asks one thing at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """Connect to a process."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, request: bytes) -> int:
        """Return the status of an answer in one piece."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        )
        await self._reader.readexactly(length)
        return int(head[9:12])

    async def begin(self, request: bytes) -> None:
        """Ask for a stream and return once its first record is here."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise RuntimeError(f"no stream: {head!r}")
        await self._reader.readuntil(b"\n")

    async def end(self) -> float:
        """Return when the stream ended, on the monotonic clock; it must end with an error."""
        rest = await self._reader.readuntil(b"\r\n0\r\n\r\n")
        now = time.monotonic()
        if b'"error"' not in rest:
            raise RuntimeError("a stream ended as if it were complete")
        return now

    async def close(self) -> None:
        """Close it."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
