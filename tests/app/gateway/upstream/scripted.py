"""A backend that a test plays itself: it sees the exact bytes that arrive and chooses the exact bytes that leave."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.gateway.upstream.adapter import BackendAnswer, BackendUpstream

PATIENCE_S = 10.0
LONG_S = 600.0
TURNS_PER_PART = 3
REQUEST_ID = b"01890000-0000-7000-8000-000000000000"
OK = b"HTTP/1.1 200 OK\r\n"
EMPTY = OK + b"Content-Length: 0\r\n\r\n"


@dataclass(frozen=True)
class Waits:
    """Deadlines in seconds; long unless the test is about them."""

    connect_s: float = LONG_S
    first_byte_s: float = LONG_S
    idle_s: float = LONG_S


@dataclass(frozen=True)
class Received:
    """One request as it arrived."""

    head: bytes
    body: bytes


class Peer:
    """The backend's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> bytes:
        """Wait for a request head."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def request(self) -> Received:
        """Wait for a whole request."""
        head = await self.head()
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        async with asyncio.timeout(PATIENCE_S):
            return Received(head, await self.reader.readexactly(length))

    async def send(self, *parts: bytes) -> None:
        """Send parts so that each is received on its own.

        Loopback delivers within the write; a few turns of the loop, which the client shares, let it read.
        """
        for part in parts:
            self.writer.write(part)
            await turns(TURNS_PER_PART)

    async def gone(self) -> None:
        """Wait until the client has closed its end."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionError:
                pass

    def close(self) -> None:
        """Close in order."""
        self.writer.close()

    def reset(self) -> None:
        """Close with a TCP reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class ScriptedBackend:
    """A listening socket that hands its connections to the test."""

    def __init__(self) -> None:
        self.url = ""
        self.peers: list[Peer] = []
        self._arrivals: asyncio.Queue[Peer] = asyncio.Queue()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one connection in."""
        peer = Peer(reader, writer)
        self.peers.append(peer)
        self._arrivals.put_nowait(peer)

    async def peer(self) -> Peer:
        """Wait for the next connection."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._arrivals.get()


@asynccontextmanager
async def scripted_backend(
    *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[ScriptedBackend]:
    """Listen on a free port."""
    backend = ScriptedBackend()
    server = await asyncio.start_server(backend.accept, host, 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    authority = f"[{host}]" if ":" in host else host
    backend.url = f"{'https' if tls else 'http'}://{authority}:{port}"
    try:
        yield backend
    finally:
        server.close()
        for peer in backend.peers:
            peer.writer.transport.abort()
        await turns(TURNS_PER_PART)


@asynccontextmanager
async def client_of(
    url: str,
    *,
    waits: Waits | None = None,
    headers: dict[str, str] | None = None,
    max_connections: int = 1024,
    max_idle_s: float = LONG_S,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[BackendUpstream]:
    """Build the client under test and close it afterwards."""
    upstream = BackendUpstream(
        name="a",
        base_url=url,
        headers=headers or {},
        deadlines=waits or Waits(),
        max_connections=max_connections,
        max_idle_s=max_idle_s,
        ssl_context=ssl_context,
    )
    try:
        yield upstream
    finally:
        await upstream.aclose()


def post(upstream: BackendUpstream, body: bytes = b"{}") -> asyncio.Task[BackendAnswer]:
    """Start a request."""
    return asyncio.create_task(upstream.post(b"/api/chat", body, request_id=REQUEST_ID, traceparent=None))


async def finish(call: asyncio.Task[BackendAnswer]) -> BackendAnswer:
    """Wait for the head of the response, which must come."""
    async with asyncio.timeout(PATIENCE_S):
        return await call


async def read_all(answer: BackendAnswer) -> bytes:
    """Read to the end."""
    body = b""
    async with asyncio.timeout(PATIENCE_S):
        while piece := await answer.read():
            body += piece
    return body


async def served(upstream: BackendUpstream, backend: ScriptedBackend, *parts: bytes) -> Peer:
    """Have one request answered on a new connection, and released; returns the backend's end of it."""
    call = post(upstream)
    peer = await backend.peer()
    await peer.request()
    await peer.send(*parts)
    answer = await finish(call)
    await read_all(answer)
    answer.close()
    return peer


async def turns(count: int) -> None:
    """Let the loop run `count` rounds."""
    for _ in range(count):
        await asyncio.sleep(0)
