"""A client that can do what well-behaved libraries cannot: leave in the middle, stop reading, say odd things."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID


class LeavingClient:
    """One HTTP/1.1 connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.request_id: UUID | None = None

    async def send(self, data: bytes) -> None:
        """Send raw bytes."""
        self._writer.write(data)
        await self._writer.drain()

    async def post(self, path: str, body: Any, *, key: str) -> None:
        """Send one JSON request."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        await self.send(head.encode() + content)

    async def get(self, path: str, *, key: str) -> int:
        """Ask for what has a length, and return the status."""
        await self.send(
            f"GET {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
        )
        status, headers = await self.head()
        await self.body(headers)
        return status

    async def head(self) -> tuple[int, dict[str, str]]:
        """Read a response head: status and headers."""
        text = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = text.strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        self.request_id = UUID(headers["x-request-id"])
        return int(first.split(" ")[1]), headers

    async def body(self, headers: dict[str, str]) -> bytes:
        """Read the body of a response with a length."""
        return await self._reader.readexactly(int(headers["content-length"]))

    async def chunk(self) -> bytes:
        """Read one chunk of a chunked body, b"" at its end."""
        size = int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16)
        return (await self._reader.readexactly(size + 2))[:-2]

    async def records(self, wanted: int) -> int:
        """Read chunks until at least that many records of content are here; return how many are."""
        seen = b""
        while (found := content_records(seen)) < wanted:
            seen += await self.chunk()
        return found

    async def stream(self) -> tuple[bytes, bool]:
        """Read a chunked body as far as it goes: what came, and whether it ended properly."""
        seen = b""
        try:
            while piece := await self.chunk():
                seen += piece
        except (EOFError, ConnectionError):
            return seen, False
        return seen, True

    async def is_closed_by_the_other_side(self) -> bool:
        """Read to the end of the connection; False if bytes came that were not expected."""
        try:
            return await self._reader.read(1) == b""
        except ConnectionError:
            return True

    def leave(self) -> float:
        """Close the connection at once and return when, in monotonic seconds."""
        at = time.monotonic()
        self._writer.transport.abort()
        return at


_TOKEN_MARKS: Final = (
    b'"done":false',
    b'"finish_reason":null',
    b"event: response.output_text.delta\n",
    b"event: content_block_delta\n",
)


def content_records(seen: bytes) -> int:
    """Return how many records of a stream, of any family, carry a token."""
    return sum(map(seen.count, _TOKEN_MARKS))


@contextlib.asynccontextmanager
async def leaving_client(url: str, *, receive_buffer: int | None = None) -> AsyncIterator[LeavingClient]:
    """Open a connection; a small `receive_buffer` makes a client that stalls be noticed soon."""
    parts = urlsplit(url)
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(0)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (parts.hostname, parts.port))
        reader, writer = await asyncio.open_connection(sock=connection, limit=1 << 16)
    except BaseException:
        connection.close()
        raise
    try:
        yield LeavingClient(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
