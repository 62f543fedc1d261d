"""The measurements. Each goes over all targets in turn, round by round, beginning with another one each time."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import httpx
import msgspec

from bench.load import Counts, begun, clients, connect
from bench.processes import cpu_s, resident_bytes
from bench.report import Results, percentile
from bench.targets import MODEL, Target

CHAT = "/api/chat"
COMPLETIONS = "/v1/chat/completions"
REQUEST_BYTES = 1024
ANSWER_TOKENS = 150
"""Makes the simulated answer about a kilobyte."""
CHUNKS_PER_SECOND = 50
STREAM_TOKENS = 5000
"""More than any stream here lives for."""
_GONE_WITHIN_S = 5.0
_MEMORY_SETTLES_S = 0.3


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured.

    Idle streams come one after another over `arrival_seconds`: what a burst of connections needs for a moment is
    another question. Paced streams begin at moments spread over `spread_seconds`, so that they do not beat together.
    """

    rounds: int = 5
    warm_up_seconds: float = 0.25
    seconds: float = 1.2
    latency_seconds: float = 0.8
    stream_seconds: float = 2.0
    spread_seconds: float = 0.5
    streams: int = 200
    arrival_seconds: float = 1.0
    idle_streams: int = 500
    leavers: int = 60


QUICK = Scale(rounds=2, seconds=0.4, latency_seconds=0.3, stream_seconds=0.8, idle_streams=200, leavers=20)


class Backends:
    """The orders given to the simulated servers, so that all answer alike."""

    def __init__(self, client: httpx.AsyncClient, servers: Sequence[Target]) -> None:
        self._client = client
        self._servers = servers

    async def answer_at_once(self) -> None:
        """Answer about a kilobyte, without delay."""
        await self._order("POST", "/_sim/settings", {"tokens": ANSWER_TOKENS, "token_interval_ms": 0})

    async def pace_streams(self) -> None:
        """Stream one record every 20 ms, for longer than anybody watches."""
        interval_ms = 1000 / CHUNKS_PER_SECOND
        await self._order(
            "POST", "/_sim/settings", {"tokens": STREAM_TOKENS, "token_interval_ms": interval_ms}
        )

    @asynccontextmanager
    async def hanging(self) -> AsyncIterator[None]:
        """Let every stream fall silent after its first record while the block lasts."""
        await self._order("POST", "/_sim/faults", {"fault": "hang", "after": 1, "count": None})
        yield
        await self._order("DELETE", "/_sim/faults")

    async def forget(self) -> None:
        """Clear the request logs."""
        await self._order("DELETE", "/_sim/requests")

    async def departures(self, backend: Target, count: int) -> list[float]:
        """Return when each of `count` requests ended at the backend, in monotonic seconds."""
        answer = await self._client.get(
            f"http://127.0.0.1:{backend.port}/_sim/requests",
            params={"ended": count, "timeout_s": _GONE_WITHIN_S},
            timeout=2 * _GONE_WITHIN_S,
        )
        answer.raise_for_status()
        return [float(request["ended_s"]) for request in answer.json()["requests"]]

    async def _order(self, method: str, path: str, body: Mapping[str, object] | None = None) -> None:
        for server in self._servers:
            answer = await self._client.request(method, f"http://127.0.0.1:{server.port}{path}", json=body)
            answer.raise_for_status()


class Watched(NamedTuple):
    """What a target did in a while: how often, and at which price for each time."""

    per_s: float
    cpu_us: float


class Bench:
    """All measurements over one set of targets.

    Parameters
    ----------
    targets
        What is compared. "direct" is the simulated server that stands where the others stand.
    backend
        The simulated server behind the proxies.
    backends
        The orders to the simulated servers.
    scale
        How much is measured.
    results
        Where the figures go.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        *,
        backend: Target,
        backends: Backends,
        scale: Scale,
        results: Results,
    ) -> None:
        self._targets = targets
        self._relaying = [target for target in targets if target.name != "granian"]
        self._proxies = [target for target in self._relaying if target.name != "direct"]
        self._backend = backend
        self._backends = backends
        self._scale = scale
        self._results = results

    async def requests(self, connections: int) -> None:
        """CPU per request, and requests per second, of small answers in one piece."""
        await self._backends.answer_at_once()
        cost = self._results.measure(f"CPU us per request, c={connections}")
        rate = self._results.measure(f"requests per second, c={connections}")
        async for target in self._turns(self._targets):
            request = target.request(CHAT, chat(stream=False))
            async with clients(target.port, request, connections) as counts:
                await asyncio.sleep(self._scale.warm_up_seconds)
                watched = await _watch(
                    target, counts, lambda counts: counts.answered, seconds=self._scale.seconds
                )
            rate.add(target.name, watched.per_s)
            cost.add(target.name, watched.cpu_us)
            self._results.count(target.name, counts)

    async def latency(self) -> None:
        """Time of one request after the other on one connection, and what the proxies add to it."""
        await self._backends.answer_at_once()
        found = await self._alone(CHAT, chat(stream=False), lambda counts: counts.whole_s)
        self._note_latency(found, "answer ms, c=1")

    async def first_byte(self) -> None:
        """Time from a request to the first bytes of its stream, on one connection."""
        await self._backends.answer_at_once()
        body = chat(stream=True) | {"options": {"num_predict": 2}}
        found = await self._alone(CHAT, body, lambda counts: counts.first_byte_s)
        self._note_latency(found, "first byte of a stream ms, c=1")

    async def chunks(self, path: str) -> None:
        """CPU per relayed record of many paced streams."""
        await self._backends.pace_streams()
        api = "native" if path == CHAT else "OpenAI"
        streams = f"{self._scale.streams} {api} streams"
        cost = self._results.measure(f"CPU us per chunk, {streams}")
        pace = self._results.measure(f"chunks per second, {streams}")
        mark = b"\n" if path == CHAT else b"\n\n"
        async for target in self._turns(self._relaying):
            request = target.request(path, chat(stream=True))
            async with clients(
                target.port, request, self._scale.streams, mark=mark, spread_s=self._scale.spread_seconds
            ) as counts:
                await begun(counts, self._scale.streams)
                await asyncio.sleep(self._scale.warm_up_seconds)
                watched = await _watch(
                    target, counts, lambda counts: counts.records, seconds=self._scale.stream_seconds
                )
            pace.add(target.name, watched.per_s)
            cost.add(target.name, watched.cpu_us)
            self._results.count(target.name, counts)

    async def memory(self) -> None:
        """Memory held for each stream that is open and silent. Once: memory that was used is kept."""
        await self._backends.answer_at_once()
        held = self._results.measure("KiB per idle stream")
        async with self._backends.hanging():
            for target in self._relaying:
                request = target.request(CHAT, chat(stream=True))
                streams = self._scale.idle_streams
                before = resident_bytes(target.pids)
                async with clients(
                    target.port, request, streams, spread_s=self._scale.arrival_seconds
                ) as counts:
                    await begun(counts, streams)
                    await asyncio.sleep(_MEMORY_SETTLES_S)
                    grown = resident_bytes(target.pids) - before
                    held.add(target.name, grown / streams / 1024)
                self._results.count(target.name, counts)

    async def leaving(self) -> None:
        """Time from a client's leaving its stream to the end of the request at the backend."""
        await self._backends.pace_streams()
        middle = self._results.measure("upstream closed after the client left ms, p50")
        slow = self._results.measure("upstream closed after the client left ms, p99")
        for target in self._proxies:
            await self._backends.forget()
            left, counts = [], Counts()
            for _ in range(self._scale.leavers):
                client = await connect(target.port, target.request(CHAT, chat(stream=True)), counts)
                await client.began.wait()
                left.append(time.monotonic())
                client.leave()
                await asyncio.sleep(1 / CHUNKS_PER_SECOND)
            ended = await self._backends.departures(self._backend, len(left))
            took = [after - before for before, after in zip(left, ended, strict=True)]
            middle.add(target.name, statistics.median(took) * 1e3)
            slow.add(target.name, percentile(took, 99) * 1e3)
            self._results.count(target.name, counts)

    async def _turns(self, targets: Sequence[Target]) -> AsyncIterator[Target]:
        for number in range(self._scale.rounds):
            first = number % len(targets)
            for target in (*targets[first:], *targets[:first]):
                yield target

    async def _alone(
        self, path: str, body: dict[str, object], times: Callable[[Counts], list[float]]
    ) -> dict[str, list[list[float]]]:
        """Return the times of each round by target, for one client that asks again and again."""
        found: dict[str, list[list[float]]] = {target.name: [] for target in self._relaying}
        async for target in self._turns(self._relaying):
            async with clients(target.port, target.request(path, body), 1) as counts:
                await asyncio.sleep(self._scale.warm_up_seconds)
                warm = len(times(counts))
                await asyncio.sleep(self._scale.latency_seconds)
                found[target.name].append(times(counts)[warm:])
            self._results.count(target.name, counts)
        return found

    def _note_latency(self, found: Mapping[str, list[list[float]]], what: str) -> None:
        for share in (50, 99):
            plain = self._results.measure(f"{what}, p{share}")
            for name, rounds in found.items():
                for times in rounds:
                    plain.add(name, percentile(times, share) * 1e3)
        added = self._results.measure(f"{what}, p50 added to direct")
        direct = found.get("direct", ())
        for name, rounds in found.items():
            for times, theirs in zip(rounds, direct, strict=False):
                if name != "direct":
                    added.add(name, (percentile(times, 50) - percentile(theirs, 50)) * 1e3)


async def _watch(
    target: Target, counts: Counts, events: Callable[[Counts], int], *, seconds: float
) -> Watched:
    """Look at a busy target for so many seconds."""
    before, began, cpu = events(counts), time.perf_counter(), cpu_s(target.pids)
    await asyncio.sleep(seconds)
    number, spent = events(counts) - before, cpu_s(target.pids) - cpu
    return Watched(number / (time.perf_counter() - began), spent / max(1, number) * 1e6)


def chat(*, stream: bool) -> dict[str, object]:
    """Return a chat request of about a kilobyte, in the words both APIs share."""
    content = "why is the sky blue? " * (REQUEST_BYTES // 21 - 4)
    return {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": content}]}


Section = Callable[[Bench], Awaitable[None]]

SECTIONS: Mapping[str, Sequence[Section]] = {
    # Memory comes before the many streams: what they once used would stay with the process.
    "requests": (lambda bench: bench.requests(16), lambda bench: bench.requests(32)),
    "latency": (Bench.latency, Bench.first_byte),
    "memory": (Bench.memory,),
    "chunks": (lambda bench: bench.chunks(CHAT), lambda bench: bench.chunks(COMPLETIONS)),
    "leaving": (Bench.leaving,),
}
