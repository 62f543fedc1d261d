"""A backend that says exactly what a test wants, byte for byte; the simulated Ollama is for everything else."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

Script = bytes | None
"""The bytes of one answer; None accepts the question and never answers."""


def answer(body: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a whole HTTP response; a body that is not bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def tags(*names: str, digest: str = "ab") -> bytes:
    """Return an answer of /api/tags."""
    return answer({"models": [{"name": name, "model": name, "digest": digest, "size": 7} for name in names]})


class ScriptedBackend:
    """Answers each path with its script, every time it is asked, and keeps the questions."""

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {
            "/api/version": answer({"version": "0.33.0"}),
            "/api/tags": tags("llama3.2"),
            "/api/ps": answer({"models": [{"name": "llama3.2:latest"}]}),
        }
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.url = ""
        self.over = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection until it closes."""
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *rest = head.strip().split("\r\n")
            path = first.split(" ")[1]
            headers = dict(line.lower().split(": ", 1) for line in rest)
            await reader.readexactly(int(headers.get("content-length", 0)))
            self.requests.append((path, headers))
            script = self.scripts[path]
            if script is None:
                await self.over.wait()
                return
            writer.write(script)
            await writer.drain()


Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def speaking_server(speak: Speak) -> AsyncIterator[str]:
    """Run a server that does `speak` with each connection, and give its address; ends once all are done."""
    conversations: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        conversations.add(task)
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            await speak(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        if conversations:
            await asyncio.wait(conversations, timeout=5)


@contextlib.asynccontextmanager
async def scripted_backend() -> AsyncIterator[ScriptedBackend]:
    """Run a backend on a free port of the loopback address."""
    backend = ScriptedBackend()
    async with speaking_server(backend.serve) as url:
        backend.url = url
        try:
            yield backend
        finally:
            backend.over.set()


@contextlib.asynccontextmanager
async def closed_port() -> AsyncIterator[int]:
    """Give a port that refuses connections: bound, so that nobody else gets it, but not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
