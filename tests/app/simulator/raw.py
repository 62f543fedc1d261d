"""HTTP spoken by hand, for tests that look at bytes."""

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import anyio
from anyio.abc import SocketAttribute, SocketStream

CHAT: dict[str, Any] = {"model": "llama3.2", "messages": [{"role": "user", "content": "How are you?"}]}
PATIENCE_S = 10.0

COMPLETION: dict[str, Any] = {"model": "llama3.2", "prompt": "How are you?"}


def post(path: str, body: object, *headers: str) -> bytes:
    """Return the bytes of a POST with a JSON body."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(content)}", *headers, "", "")
    return "\r\n".join(lines).encode() + content


async def dial(url: str) -> SocketStream:
    """Return a connection to a server."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return await anyio.connect_tcp(parts.hostname, parts.port)


async def read_all(stream: SocketStream) -> bytes:
    """Return everything up to the end of the connection; raises `BrokenResourceError` on a reset."""
    received = b""
    with anyio.fail_after(PATIENCE_S):
        try:
            while True:
                received += await stream.receive()
        except anyio.EndOfStream:
            pass
    return received


async def read_until(stream: SocketStream, mark: bytes) -> bytes:
    """Return what came up to and with `mark` (and perhaps more)."""
    received = b""
    with anyio.fail_after(PATIENCE_S):
        while mark not in received:
            received += await stream.receive()
    return received


async def talk(url: str, request: bytes) -> bytes:
    """Send a request that closes its connection; return all of the answer."""
    async with await dial(url) as stream:
        await stream.send(request)
        return await read_all(stream)


def chunks_of(answer: bytes) -> Sequence[bytes]:
    """Return the chunks of a chunked response, without the last, empty one."""
    _, _, rest = answer.partition(b"\r\n\r\n")
    chunks = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            break
        chunks.append(rest[:length])
        rest = rest[length + 2 :]
    return chunks


def leave_rudely(stream: SocketStream) -> None:
    """Make the coming close a reset."""
    raw: socket.socket = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - not Django
    with raw.dup() as duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
