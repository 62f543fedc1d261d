"""Backends that send too much of something cost a process bounded memory, as the kernel counts it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from app.embedded.process import children_of
from domain.stream_reader import MAX_RECORD_BYTES
from tests.support.asking import NATIVE_STREAM, NATIVE_WHOLE, OPENAI_STREAM, SHAPES, STREAMS, Shape
from tests.support.counts import count
from tests.support.fleet import SOLO, Fleet
from tests.support.gateway import Gateway

MIB: Final = 1 << 20
GROWTH: Final = 8 * MIB
"""A few buffers of a few hundred KiB, and what the allocator rounds up; the rogues send 64 MiB."""
GROWTH_OF_A_LINE: Final = 3 * MAX_RECORD_BYTES
"""A line is held up to its bound, in a buffer that is copied as it grows."""

Rogue = tuple[str, dict[str, Any], tuple[Shape, ...]]
ROGUES: Final[list[Rogue]] = [
    *(("endless_line", {}, (shape,)) for shape in (*STREAMS, NATIVE_WHOLE)),
    ("huge_headers", {"size": 64 * MIB}, SHAPES),
    ("gzip_body", {}, SHAPES),
    ("redirect", {"location": "http://127.0.0.1:9/" + "x" * 4000}, SHAPES),
    ("wrong_length", {"size": 1 << 60}, (NATIVE_WHOLE,)),
    ("status", {"status": 500, "raw_body": "x" * (2 * MIB), "content_type": "text/plain"}, SHAPES),
]


class Memory:
    """What the processes of an app hold, in bytes."""

    def __init__(self, gateway: Gateway) -> None:
        self._pids = [gateway.app.pid, *children_of(gateway.app.pid)]

    def _sum(self, field: str) -> int:
        found = 0
        for pid in self._pids:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            found += next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
        return found

    @contextmanager
    def grows_at_most(self, allowed: int) -> Iterator[None]:
        """Check how far the peak within a block lies above what was held before it."""
        for pid in self._pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # forget earlier peaks
        before = self._sum("VmRSS:")
        yield
        grown = self._sum("VmHWM:") - before
        assert grown <= allowed, f"grew by {grown / MIB:.1f} MiB"


@pytest.fixture
async def memory(gateway: Gateway, client: httpx.AsyncClient) -> Memory:
    """Give the app's memory once it has seen every shape, so that what is made once is made."""
    for shape in SHAPES:
        await swallow(client, shape)
    return Memory(gateway)


async def swallow(client: httpx.AsyncClient, shape: Shape) -> int:
    """Ask a model that one backend hosts, and count what comes without keeping it."""
    got = 0
    try:
        async with client.stream("POST", shape.path, json=shape.body(SOLO)) as reply:
            async for piece in reply.aiter_raw():
                got += len(piece)
    except httpx.RemoteProtocolError:
        pass  # an answer that broke off
    return got


@pytest.mark.parametrize("rogue", ROGUES, ids=[f"{rogue[0]}-{rogue[2][0]}" for rogue in ROGUES])
async def test_t30_a_rogue_backend_costs_bounded_memory(
    fleet: Fleet, client: httpx.AsyncClient, memory: Memory, rogue: Rogue
) -> None:
    fault, details, shapes = rogue
    with memory.grows_at_most(GROWTH_OF_A_LINE if fault == "endless_line" else GROWTH):
        for shape in shapes:
            await fleet.a.order(fault, count=2, **details)
            await swallow(client, shape)
            await fleet.a.withdraw()


@pytest.mark.parametrize("shape", [NATIVE_STREAM, OPENAI_STREAM], ids=str)
async def test_t30_a_million_tiny_chunks_cost_bounded_memory(
    fleet: Fleet, client: httpx.AsyncClient, memory: Memory, shape: Shape
) -> None:
    await fleet.a.change(tokens=count(1000, 10_000))
    await fleet.a.order("tiny_chunks", count=1)

    with memory.grows_at_most(GROWTH):
        got = await swallow(client, shape)

    assert got > count(50_000, 500_000)
