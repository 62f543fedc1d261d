"""How long a large body stops the event loop: `python -m bench.large_bodies`, half a minute.

One process takes a body in pieces, understands it, writes it anew and sends it to a backend that throws it away, in two
ways: as a whole, and as the gateway does with large bodies. A task that does nothing else counts the turns of the
event loop. A stop is the CPU time that the process spent between two turns, in whichever thread: what everybody
else would wait on a machine with nothing else to do. CPU time, so that a busy machine can measure it too.
"""

import argparse
import asyncio
import base64
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvloop

from app.gateway.body import Bodies
from app.gateway.call import Call
from app.gateway.upstream.adapter import BackendUpstream
from bench.processes import REPOSITORY, first_line, running, split_cores
from bench.report import this_machine
from domain.crowding import MAX_COMMAS, MAX_CONTAINERS
from domain.policies import Policy
from domain.requests import parse_request, rebuild, rebuild_in_pieces
from domain.routes import inference_routes

PIECE_BYTES: Final = 64 * 1024
LARGEST_BYTES: Final = 64 << 20
CHAT: Final = inference_routes()["/api/chat"]
POLICY: Final = Policy({}, default_output_cap=100)
_PNG_HEAD: Final = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\2\0\0\0\2\0"
_RANDOM: Final = random.Random(20)
_SINK: Final = """
import asyncio
async def serve(reader, writer):
    while head := await reader.readuntil(b"\\r\\n\\r\\n"):
        left = int(head.lower().split(b"content-length:")[1].split(b"\\r\\n")[0])
        while left:
            left -= len(await reader.read(left))
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def images(count: int, text_bytes: int) -> bytes:
    """Return a chat with so many images of that size in base64."""
    made = [_PNG_HEAD + _RANDOM.randbytes(text_bytes * 3 // 4 - len(_PNG_HEAD)) for _ in range(count)]
    return _chat({"role": "user", "images": [base64.b64encode(each).decode() for each in made]})


def conversation(text_bytes: int) -> bytes:
    """Return a chat of many messages with line breaks and quotes."""
    said = 'She said "hello",\nand left.\n' * 40
    return _chat(*({"role": "user", "content": said} for _ in range(text_bytes // len(json.dumps(said)))))


def crowd() -> bytes:
    """Return the most lists and texts that a body may hold, none of which means anything."""
    lists, texts = b"[]," * (MAX_CONTAINERS - 10), b'"",' * (MAX_COMMAS - MAX_CONTAINERS)
    return b'{"model":"m","messages":[],"x":[%b%b[]]}' % (lists, texts)


def _chat(*messages: Mapping[str, object]) -> bytes:
    return json.dumps({"model": "m", "messages": messages}).encode()


BODIES: Mapping[str, Callable[[], bytes]] = {
    "1 image of 192 KiB": lambda: images(1, 192 << 10),
    "1 image of 256 KiB": lambda: images(1, 256 << 10),
    "1 image of 1 MiB": lambda: images(1, 1 << 20),
    "20 images of 1 MiB": lambda: images(20, 1 << 20),
    "10 images of 5 MiB": lambda: images(10, 5 << 20),
    "1 image of 20 MiB": lambda: images(1, 20 << 20),
    "5,000 images of 4.5 KiB": lambda: images(5_000, 4608),
    "a conversation of 8 MiB": lambda: conversation(8 << 20),
    "a crowd of 3 MB": crowd,
}


class Round(NamedTuple):
    """The longest stop, all CPU time, both in seconds, and by how much the process grew at most, in bytes."""

    stop_s: float
    cpu_s: float
    grown_bytes: int


class Process:
    """What a request passes: bodies are read, and sent to one backend."""

    def __init__(self, bodies: Bodies, upstream: BackendUpstream) -> None:
        self._bodies = bodies
        self._upstream = upstream

    async def whole(self, pieces: Sequence[bytes]) -> None:
        """Do everything at once."""
        request = parse_request(CHAT, b"".join(pieces))
        await self._send(rebuild(request, "m", POLICY.apply(request)))

    async def lifted(self, pieces: Sequence[bytes]) -> None:
        """Do what the gateway does."""
        call = Call(method="POST", raw_path=b"/api/chat", headers=(), peer=None, started=0.0)
        body = await self._bodies.read(call, _inbox(pieces))
        request = await self._bodies.parse(partial(parse_request, CHAT), body)
        write = rebuild_in_pieces if request.is_large else rebuild
        await self._send(write(request, "m", POLICY.apply(request)))
        call.let_go_of_body()

    async def _send(self, body: bytes | tuple[bytes | memoryview, ...]) -> None:
        answer = await self._upstream.post(b"/api/chat", body, request_id=b"1", traceparent=None)
        await answer.read()
        answer.close()


WAYS: Mapping[str, Callable[[Process, Sequence[bytes]], Awaitable[None]]] = {
    "whole": Process.whole,
    "lifted": Process.lifted,
}


def _inbox(pieces: Sequence[bytes]) -> Callable[[], Awaitable[Any]]:
    left = list(reversed(pieces))

    async def receive() -> dict[str, object]:
        piece = left.pop()
        return {"type": "http.request", "body": piece, "more_body": bool(left)}

    return receive


async def one_round(work: Awaitable[None]) -> Round:
    """Do the work, and count the turns of the event loop meanwhile."""
    before, cpu = _reset_peak(), time.process_time()
    longest, last = 0.0, cpu
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.sleep(0)
        now = time.process_time()
        longest, last = max(longest, now - last), now
    task.result()
    return Round(longest, time.process_time() - cpu, _peak() - before)


def _reset_peak() -> int:
    """Forget the most memory this process has held, and return what it holds now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak()


def _peak() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@contextmanager
def sink() -> Iterator[int]:
    """Run a backend that throws everything away, and give its port."""
    with running((sys.executable, "-c", _SINK), cores=split_cores().others, cwd=REPOSITORY) as child:
        yield int(first_line(child))


@asynccontextmanager
async def process(port: int) -> AsyncIterator[Process]:
    """Make what a request passes."""
    bodies = Bodies(max_bytes=LARGEST_BYTES, base_timeout_s=60, max_buffered_bytes=2 * LARGEST_BYTES)
    deadlines = _Deadlines()
    upstream = BackendUpstream(
        name="sink", base_url=f"http://127.0.0.1:{port}", headers={}, deadlines=deadlines
    )
    with closing(bodies):
        try:
            yield Process(bodies, upstream)
        finally:
            await upstream.aclose()


class _Deadlines(NamedTuple):
    connect_s: float = 60.0
    first_byte_s: float = 60.0
    idle_s: float = 60.0


def rounds_of(port: int, name: str, way: str, number: int) -> list[Round]:
    """Return the rounds of one body in one way, in a process that has done nothing before."""
    return uvloop.run(_rounds_of(port, BODIES[name](), WAYS[way], number))


async def _rounds_of(
    port: int, body: bytes, run: Callable[[Process, Sequence[bytes]], Awaitable[None]], number: int
) -> list[Round]:
    pieces = [body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES)]
    async with process(port) as subject:
        return [await one_round(run(subject, pieces)) for _ in range(number)]


def row(name: str, way: str, rounds: Sequence[Round]) -> str:
    """Return a line of the table."""
    stops = [each.stop_s * 1e3 for each in rounds]
    cpu_s = statistics.median(each.cpu_s for each in rounds)
    grown = max(each.grown_bytes for each in rounds) / 2**20
    return f"| {name} | {way} | {statistics.median(stops):.1f} | {max(stops):.1f} | {cpu_s * 1e3:.0f} | {grown:.0f} |"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.large_bodies", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--bodies", nargs="+", choices=BODIES, default=list(BODIES), metavar="BODY")
    options = parser.parse_args()
    print(f"{this_machine()}. {options.rounds} rounds.\n")
    print("| body | way | longest stop ms, median | max | all CPU ms | memory MiB |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    fresh = partial(ProcessPoolExecutor, 1, mp_context=get_context("spawn"))
    with sink() as port:
        for name in options.bodies:
            for way in WAYS:
                with fresh() as child:
                    found = child.submit(rounds_of, port, name, way, options.rounds).result()
                print(row(name, way, found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
