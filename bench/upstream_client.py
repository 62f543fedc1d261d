"""CPU cost of one request and of one streamed chunk for ways to talk to a backend.

Run `python -m bench.upstream_client`. A trivial server runs in a child process on another core; what is
reported is user + system time of this process alone, per request (1 KB JSON both ways) and per relayed chunk.
Rounds are interleaved over the clients and the median is shown. It stops by itself after one or two minutes.
"""

import argparse
import asyncio
import contextlib
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import cast

import httpx
import uvloop

from app.gateway.upstream.adapter import BackendAnswer, BackendUpstream

REQUEST_BODY = b'{"model":"llama3.2","prompt":"' + b"x" * 990 + b'"}'
RESPONSE_BODY = b'{"model":"llama3.2","done":true,"response":"' + b"y" * 970 + b'"}'
HEADERS = b"Content-Type: application/json; charset=utf-8\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (HEADERS, len(RESPONSE_BODY), RESPONSE_BODY)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\n%bTransfer-Encoding: chunked\r\n\r\n" % HEADERS
RECORD = b'{"model":"llama3.2","created_at":"2026-01-01T00:00:00Z","response":" word","done":false}\n'
CHUNK = b"%x\r\n%b\r\n" % (len(RECORD), RECORD)
CHUNKS_PER_STREAM = 100
CHUNK_EVERY_S = 0.01

Call = Callable[[bytes], Awaitable[int]]


class Server(asyncio.Protocol):
    """Answers `/stream` in paced chunks and everything else with one JSON document."""

    def __init__(self) -> None:
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer once the fixed request body is here."""
        self._received += data
        if not self._received.endswith(REQUEST_BODY):
            return
        streams = self._received.startswith(b"POST /stream")
        self._received.clear()
        if streams:
            self._transport.write(STREAM_HEAD)
            self._send_chunk(CHUNKS_PER_STREAM)
        else:
            self._transport.write(WHOLE)

    def _send_chunk(self, left: int) -> None:
        if left:
            self._transport.write(CHUNK)
            asyncio.get_running_loop().call_later(CHUNK_EVERY_S, self._send_chunk, left - 1)
        else:
            self._transport.write(b"0\r\n\r\n")


async def serve() -> None:
    """Run until the parent closes our standard input."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await loop.run_in_executor(None, sys.stdin.read)


@contextlib.contextmanager
def serving(core: int | None) -> Iterator[int]:
    """Run the server in a child pinned to `core`; yields its port."""
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None  # noqa: S101
        assert child.stdout is not None  # noqa: S101
        port = int(child.stdout.readline())
        if core is not None:
            os.sched_setaffinity(child.pid, {core})
        try:
            yield port
        finally:
            child.stdin.close()


@dataclass(frozen=True)
class Patience:
    """Deadlines far away."""

    connect_s: float = 2.0
    first_byte_s: float = 600.0
    idle_s: float = 300.0


@contextlib.asynccontextmanager
async def own(port: int) -> AsyncIterator[Call]:
    """Our transport, as the relay calls it."""
    upstream = _upstream(port)

    async def call(path: bytes) -> int:
        answer = await upstream.post(path, REQUEST_BODY, request_id=b"0" * 36, traceparent=None)
        try:
            return await _drain(answer)
        finally:
            answer.close()

    yield call
    await upstream.aclose()


def _upstream(port: int) -> BackendUpstream:
    return BackendUpstream(
        name="bench",
        base_url=f"http://127.0.0.1:{port}",
        headers={"Authorization": "Bearer t"},
        deadlines=Patience(),
    )


async def _drain(answer: BackendAnswer) -> int:
    pieces = 0
    while await answer.read():
        pieces += 1
    return pieces


class _OwnStream(httpx.AsyncByteStream):
    def __init__(self, answer: BackendAnswer) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self._answer.read():
            yield piece

    async def aclose(self) -> None:
        self._answer.close()


class _OwnTransport(httpx.AsyncBaseTransport):
    def __init__(self, upstream: BackendUpstream) -> None:
        self._upstream = upstream

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._upstream.post(
            request.url.raw_path,
            request.content,
            request_id=request.headers["x-request-id"].encode(),
            traceparent=None,
        )
        return httpx.Response(answer.status, headers=list(answer.headers.items()), stream=_OwnStream(answer))


@contextlib.asynccontextmanager
async def own_behind_httpx(port: int) -> AsyncIterator[Call]:
    """Our transport behind httpx's Request and Response, called directly."""
    upstream = _upstream(port)
    transport = _OwnTransport(upstream)
    base = httpx.URL(f"http://127.0.0.1:{port}")

    async def call(path: bytes) -> int:
        request = httpx.Request(
            "POST", base.copy_with(raw_path=path), headers={"x-request-id": "0" * 36}, content=REQUEST_BODY
        )
        response = await transport.handle_async_request(request)
        try:
            return len([piece async for piece in response.aiter_raw()])
        finally:
            await response.aclose()

    yield call
    await upstream.aclose()


@contextlib.asynccontextmanager
async def plain_httpx(port: int) -> AsyncIterator[Call]:
    """`httpx.AsyncClient` as it comes."""
    limits = httpx.Limits(max_connections=1024, max_keepalive_connections=1024)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", limits=limits, trust_env=False
    ) as client:

        async def call(path: bytes) -> int:
            headers = {
                "Authorization": "Bearer t",
                "x-request-id": "0" * 36,
                "Content-Type": "application/json",
            }
            async with client.stream(
                "POST", path.decode(), content=REQUEST_BODY, headers=headers
            ) as response:
                return len([piece async for piece in response.aiter_raw()])

        yield call


CLIENTS = (own, own_behind_httpx, plain_httpx)


def _cpu_us() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (usage.ru_utime + usage.ru_stime) * 1e6


async def _cost_us(call: Call, path: bytes, *, total: int, concurrency: int) -> float:
    """Return CPU microseconds per returned piece of body."""
    left = iter(range(total))

    async def work() -> int:
        return sum([await call(path) for _ in left])

    await asyncio.gather(*(call(path) for _ in range(concurrency)))
    before = _cpu_us()
    pieces = sum(await asyncio.gather(*(work() for _ in range(concurrency))))
    return (_cpu_us() - before) / pieces


async def measure(port: int, rounds: int) -> None:
    """Print one table for whole requests and one for streams."""
    plans = (
        [(b"/whole", c, 2000, f"us per request, c={c}") for c in (1, 16, 32)]
        + [(b"/stream", c, c, f"us per chunk, {c} streams") for c in (50, 200)]
    )  # fmt: skip
    for path, concurrency, total, title in plans:
        costs: dict[str, list[float]] = {client.__name__: [] for client in CLIENTS}
        for _ in range(rounds):
            for client in CLIENTS:
                fewer = 4 if client is plain_httpx and path == b"/whole" else 1
                async with client(port) as call:
                    cost = await _cost_us(call, path, total=total // fewer, concurrency=concurrency)
                costs[client.__name__].append(cost)
        row = "  ".join(f"{name} {statistics.median(values):8.1f}" for name, values in costs.items())
        print(f"{title:28}{row}")


def main() -> None:
    """Measure, or serve when started as the child."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve())
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[0]})
    with serving(cores[-1] if len(cores) > 1 else None) as port:
        uvloop.run(measure(port, options.rounds))


if __name__ == "__main__":
    main()
