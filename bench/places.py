"""What a place at a backend costs: CPU of the asking process and time in Redis.

`python -m bench.places` starts a Redis of its own. One place is taken, held for a millisecond and given back; there
are always enough of them, or half as many as there are requests at once, so that the others stand in line. What
the same costs without places is taken off. Last, what a request pays whose candidates have no `max_in_flight`.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Final

import uvloop
from pydantic import SecretStr

from app.gateway.line import Terms
from app.gateway.live_processes import LiveProcesses
from app.gateway.places import Places
from app.metrics import Metrics
from bench.limiter import redis_us
from db.redis.connection import connect_patient, own_channel
from db.redis.multiplex import MultiplexedRedis
from db.redis.places import CHANNEL, PlaceNews, PlaceStore
from db.tasks import end
from domain.route import Candidate
from tests.support.servers import running_valkey

PLACES: Final = 6_400
HELD_S: Final = 0.001
MODEL: Final = "llama3.2:latest"
CANDIDATES: Final = (Candidate("a", "aa", silent=False), Candidate("b", "aa", silent=False))
WIDE: Final = 10**6


class NoTimes:
    """Nobody asks how long it took."""

    def queued(self, seconds: float) -> None:
        """Forget it."""


_names: Final = itertools.count(1)


def made(redis: MultiplexedRedis, url: str, *, cap: int) -> Places:
    """Return the places of a process whose first candidate has so many."""
    patient = connect_patient(SecretStr(url))
    name = f"bench-{next(_names)}"
    terms = Terms(
        PlaceStore(redis, process_id=name, channel=own_channel(patient, CHANNEL)),
        caps={"a": cap} if cap else {},
        most_waiting=1000,
        longest_wait_s=60,
        processes=LiveProcesses("bench", seen=_nobody),
        cooling=tuple,
        drained=tuple,
        draining=lambda: False,
        metrics=Metrics(),
    )
    return Places(terms, PlaceNews(patient, process_id=name))


async def _nobody() -> tuple[str, ...]:
    return ()


async def measure(redis: MultiplexedRedis, url: str, *, at_once: int, cap: int) -> None:
    """Print what one place costs while so many requests ask at once."""
    places = made(redis, url, cap=cap)
    listening = asyncio.create_task(places.listen())
    only = CANDIDATES[:1]

    async def sleep(requests: int) -> None:
        for _ in range(requests):
            await asyncio.sleep(HELD_S)

    async def ask(requests: int) -> None:
        for _ in range(requests):
            with places.ticket(MODEL, only, NoTimes()) as ticket:
                if ticket is None:
                    raise RuntimeError("the bench measures capped candidates")
                await ticket.place(only)
                await asyncio.sleep(HELD_S)

    await ask(1)
    bare = await cpu_of(sleep, at_once)
    await redis.call("CONFIG", "RESETSTAT")
    cpu = await cpu_of(ask, at_once) - bare
    print(
        f"{min(cap, at_once):3} places, {at_once:3} at once:"
        f"  {cpu / PLACES * 1e6:6.1f} us CPU,"
        f"  {await calls(redis) / PLACES:4.2f} calls of {await redis_us(redis):5.1f} us in Redis"
    )
    await places.leave()
    await end(listening)


async def cpu_of(ask: Callable[[int], Awaitable[None]], at_once: int) -> float:
    """Return the CPU seconds of so many requests."""
    cpu = time.process_time()
    await asyncio.gather(*(ask(PLACES // at_once) for _ in range(at_once)))
    return time.process_time() - cpu


async def calls(redis: MultiplexedRedis) -> int:
    """Return how many scripts Redis ran."""
    told = await redis.call("INFO", "commandstats")
    if not isinstance(told, bytes):
        raise TypeError("INFO answers text")
    line = next(line for line in told.decode().splitlines() if line.startswith("cmdstat_evalsha:"))
    return int(line.partition("calls=")[2].partition(",")[0])


def measure_nothing(redis: MultiplexedRedis, url: str) -> None:
    """Print what a request without capped candidates pays, beside a bare `with` of nothing."""
    for name, cap in (("no backend has a cap", 0), ("others have one", 1)):
        places, candidates = made(redis, url, cap=cap), CANDIDATES[1:]
        began = time.process_time()
        for _ in range(PLACES * 10):
            with places.ticket(MODEL, candidates, _NO_TIMES):
                pass
        took = time.process_time() - began
        began = time.process_time()
        for _ in range(PLACES * 10):
            with nullcontext():
                pass
        bare = time.process_time() - began
        print(
            f"{name}: {took / PLACES / 10 * 1e6:.2f} us, of which {bare / PLACES / 10 * 1e6:.2f} are the block"
        )


_NO_TIMES: Final = NoTimes()


async def run(url: str) -> None:
    """Measure all."""
    redis = MultiplexedRedis(SecretStr(url), timeout_s=5)
    for at_once in (1, 8, 64):
        await measure(redis, url, at_once=at_once, cap=WIDE)
    for at_once in (8, 64):
        await measure(redis, url, at_once=at_once, cap=at_once // 2)
    measure_nothing(redis, url)
    await redis.aclose()


if __name__ == "__main__":
    with running_valkey() as valkey:
        uvloop.run(run(valkey.url()))
