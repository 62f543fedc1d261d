"""Four app processes over two simulated backends: what benchmarks of several processes run, and how they talk to it."""

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from app.embedded.environment import neutral_environment
from app.embedded.running import running_environment
from bench.processes import first_line, running

PROCESSES = 4
FAST, SLOW = "llama3.2", "qwen3:8b"
OK = 200
READY_WITHIN_S = 60.0
REPOSITORY = Path(__file__).parents[1]
CORES = frozenset(os.sched_getaffinity(0))
_PAUSE_S = 0.05


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
        """Return when the stream ended; it must end with an error."""
        rest = await self._reader.readuntil(b"\r\n0\r\n\r\n")
        now = time.monotonic()
        if b'"error"' not in rest:
            raise RuntimeError("a stream ended as if it were complete")
        return now

    def close(self) -> None:
        """Close it."""
        self._writer.close()


def chat(key: str, model: str, *, stream: bool) -> bytes:
    """Return the bytes of a chat request."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream})
    head = f"POST /api/chat HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def spread(values: Sequence[float]) -> list[float]:
    """Return the median, the 90th and 99th percentile and the highest."""
    ordered = sorted(values)
    return [ordered[min(len(ordered) - 1, int(len(ordered) * q))] for q in (0.5, 0.9, 0.99, 1.0)]


@contextmanager
def gateway(
    directory: Path, settings: Mapping[str, str] | None = None
) -> Iterator[tuple[list[int], Mapping[str, str]]]:
    """Run `up` with its one app process, and further ones beside it; give their ports and settings.

    `settings` are further environment variables.
    """
    with ExitStack() as stack:
        backends = [
            {"name": name, "base_url": stack.enter_context(_simulator(directory, name, model, *words))}
            for name, model, words in (
                ("fast", FAST, ("--token-interval-ms", "0")),
                ("slow", SLOW, ("--token-interval-ms", "25", "--tokens", "100000")),
            )
        ]
        ours = {"OLLAMA_BACKENDS": json.dumps(backends), "GATEWAY_WORKERS": "1", **(settings or {})}
        state = directory / "state"
        words = ("app", "up", "--json", "--port", "0", "--state-dir", str(state))
        ready = stack.enter_context(_program(directory, "up", words, neutral_environment(os.environ) | ours))
        found = running_environment(state)
        if found is None:
            raise RuntimeError("the gateway has gone")
        environ = {**found, **(settings or {})}
        ports = [int(json.loads(ready)["url"].rpartition(":")[2])]
        ports += [
            stack.enter_context(_further_app(directory, number, environ)) for number in range(1, PROCESSES)
        ]
        yield ports, environ


@contextmanager
def _further_app(directory: Path, number: int, environ: Mapping[str, str]) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    log = directory / f"app-{number}"
    own = {**environ, "GATEWAY_PORT": str(port)}
    with running(
        (sys.executable, "-m", "app", "serve"), cores=CORES, environ=own, cwd=REPOSITORY, errors=log
    ):
        yield port


@contextmanager
def _simulator(directory: Path, name: str, model: str, *words: str) -> Iterator[str]:
    command = ("app.simulator", "--name", name, "--models", model, "--exit-with-parent", *words)
    with _program(directory, name, command, neutral_environment(os.environ)) as ready:
        yield json.loads(ready)["url"]


@contextmanager
def _program(directory: Path, name: str, words: Sequence[str], environ: Mapping[str, str]) -> Iterator[str]:
    """Run a program of ours that says in one line when it is ready; give that line."""
    log = directory / name
    command = (sys.executable, "-m", *words)
    with running(command, cores=CORES, environ=environ, cwd=REPOSITORY, errors=log) as child:
        yield first_line(child, log)


async def until_ready(port: int) -> None:
    """Return once a process is ready."""
    async with asyncio.timeout(READY_WITHIN_S):
        while True:
            try:
                connection = await Connection.open(port)
                status = await connection.ask(b"GET /readyz HTTP/1.1\r\nHost: bench\r\n\r\n")
                connection.close()
                if status == OK:
                    return
            except OSError:
                pass
            await asyncio.sleep(_PAUSE_S)
