"""Processes that take places, their lines, and how many requests a backend had at once."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import msgspec
from pydantic import SecretStr
from redis.asyncio import Redis

from app.gateway.line import Terms, Ticket
from app.gateway.live_processes import LiveProcesses
from app.gateway.places import Places
from app.metrics import Metrics
from db.redis.connection import connect_patient, own_channel
from db.redis.multiplex import MultiplexedRedis
from db.redis.places import CHANNEL, Answer, PlaceNews, PlaceStore, Verdict, Wanted, places_key
from db.tasks import end
from domain.route import Candidate
from tests.support.ollama import SeenRequest

MODEL: Final = "llama3.2:latest"
MOST_WAITING: Final = 100


class Speaker:
    """One process at the store's own interface: it remembers what it holds and who of its own waits."""

    def __init__(
        self, redis: MultiplexedRedis, name: str, *, caps: Mapping[str, int], channel: str = CHANNEL
    ) -> None:
        self.name = name
        self.held: dict[str, int] = {}
        self.caps = dict(caps)
        self.tickets: dict[int, Wanted] = {}
        self.answers: dict[int, Answer] = {}
        self.store = PlaceStore(redis, process_id=name, channel=channel)
        self._number = 0

    async def ask(self, *backends: str, stays: bool = True, most_waiting: int = MOST_WAITING) -> Verdict:
        """Ask for one more place and return what follows for it at once."""
        number = self.want(*backends, stays=stays)
        await self.say(most_waiting=most_waiting)
        return self.answers[number].verdict

    def want(self, *backends: str, stays: bool = True, arrival: int = 0) -> int:
        """Prepare to ask with the next word; return the ticket's number."""
        self._number += 1
        self.tickets[self._number] = Wanted(self._number, arrival, stays, backends)
        return self._number

    async def say(self, *, recall_s: float = 0, most_waiting: int = MOST_WAITING) -> list[Answer]:
        """Say everything and act on it; return the places that were given."""
        answers = await self.store.say(
            MODEL,
            held=self.held,
            caps=self.caps,
            wanted=list(self.tickets.values()),
            most_waiting=most_waiting,
            recall_s=recall_s,
        )
        self.answers.update({answer.number: answer for answer in answers})
        for answer in answers:
            if answer.verdict is Verdict.WAIT:
                before = self.tickets[answer.number]
                self.tickets[answer.number] = Wanted(
                    before.number, answer.arrival, before.stays, before.backends
                )
                continue
            del self.tickets[answer.number]
            if answer.verdict is Verdict.PLACE:
                self.held[answer.backend] = self.held.get(answer.backend, 0) + 1
        return [answer for answer in answers if answer.verdict is Verdict.PLACE]

    async def give_back(self, backend: str) -> None:
        """Give one place back."""
        self.held[backend] -= 1
        if not self.held[backend]:
            del self.held[backend]
        await self.say()


async def let_time_pass(redis: MultiplexedRedis, seconds: float, *, of: str | None = None) -> None:
    """Make everything that Redis has of the model that much older, or only what one process said."""
    script = """
    local state = cmsgpack.unpack(redis.call('HGET', KEYS[1], 'state'))
    local by = tonumber(ARGV[1])
    for name, one in pairs(state.processes) do
      if ARGV[2] == '' or ARGV[2] == name then one.at = one.at - by end
    end
    if ARGV[2] == '' then
      state.at, state.opens = state.at - by, state.opens - by
      for _, offer in ipairs(state.offers) do offer[4] = offer[4] - by end
    end
    redis.call('HSET', KEYS[1], 'state', cmsgpack.pack(state))
    """
    await redis.call("EVAL", script, 1, places_key(MODEL), int(seconds * 1e6), of or "")


async def in_line(redis: Redis, model: str) -> int:
    """Return how many requests of all processes stand in a model's line."""
    state = await redis.hget(places_key(model), "state")
    if not isinstance(state, bytes):
        return 0
    return sum(process["waiting"] for process in msgspec.msgpack.decode(state)["processes"].values())


class Times:
    """Where the time in line is booked in tests without a ledger."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def queued(self, seconds: float) -> None:
        self.seconds += seconds


class Process:
    """The places of one app process, without the rest of it."""

    def __init__(
        self, places: Places, terms: Terms, processes: LiveProcesses, redis: MultiplexedRedis
    ) -> None:
        self.places = places
        self.terms = terms
        self.processes = processes
        self.redis = redis
        self.metrics = terms.metrics
        self._tasks: list[asyncio.Task[None]] = []

    def run(self, request: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a request that ends with the process at the latest."""
        self._tasks.append(asyncio.create_task(request))
        return self._tasks[-1]

    async def stop(self) -> None:
        """End it in order."""
        await end(*self._tasks)
        await self.places.leave()

    def ticket(self, *backends: str, times: Times | None = None) -> Ticket:
        """Return a ticket of a request with these candidates."""
        ticket = self.places.ticket(MODEL, candidates(*backends), times or Times())
        assert isinstance(ticket, Ticket)
        return ticket

    def figure(self, name: str, labels: Mapping[str, str] | None = None) -> float:
        """Return one of the process's figures."""
        self.metrics.flush()
        self.places.refresh_metrics()
        return self.metrics.registry.get_sample_value(name, dict(labels or {})) or 0.0


def candidates(*backends: str, silent: bool = False) -> tuple[Candidate, ...]:
    """Return candidates in this order."""
    return tuple(Candidate(backend, "aa", silent) for backend in backends)


class House:
    """Several processes over one Redis; each can be started, and killed as a signal would kill it."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self.url = url
        self.alive: set[str] = set()
        self.cooling: set[str] = set()
        self.drained: set[str] = set()
        self.draining = False
        self._stack = stack
        self._listening: dict[str, asyncio.Task[None]] = {}

    async def process(
        self,
        name: str,
        *,
        caps: Mapping[str, int],
        most_waiting: int = MOST_WAITING,
        longest_wait_s: float = 30,
        hears: bool = True,
        store: PlaceStore | None = None,
    ) -> Process:
        """Start one; it speaks to Redis unless it is given another store."""
        redis = MultiplexedRedis(SecretStr(self.url), timeout_s=0.25)
        self._stack.push_async_callback(redis.aclose)
        patient: Redis = await self._stack.enter_async_context(connect_patient(SecretStr(self.url)))
        self.alive.add(name)
        processes = LiveProcesses(name, seen=self._seen)
        terms = Terms(
            store or PlaceStore(redis, process_id=name, channel=own_channel(patient, CHANNEL)),
            caps=caps,
            most_waiting=most_waiting,
            longest_wait_s=longest_wait_s,
            processes=processes,
            cooling=lambda: self.cooling,
            drained=lambda: self.drained,
            draining=lambda: self.draining,
            metrics=Metrics(),
        )
        places = Places(terms, PlaceNews(patient, process_id=name))
        if hears:
            self._listening[name] = asyncio.create_task(places.listen())
            self._stack.push_async_callback(end, self._listening[name])
        process = Process(places, terms, processes, redis)
        self._stack.push_async_callback(process.stop)
        return process

    async def _seen(self) -> set[str]:
        return self.alive


@asynccontextmanager
async def house(url: str) -> AsyncIterator[House]:
    """Give an empty one."""
    async with AsyncExitStack() as stack:
        yield House(url, stack)


def no_places(metrics: Metrics) -> Places:
    """Return the places of a process without any backend that has a cap, and without Redis."""
    nowhere = SecretStr("redis://127.0.0.1:1")
    terms = Terms(
        PlaceStore(MultiplexedRedis(nowhere, timeout_s=1), process_id="test", channel=CHANNEL),
        caps={},
        most_waiting=MOST_WAITING,
        longest_wait_s=1,
        processes=LiveProcesses("test", seen=_nobody),
        cooling=tuple,
        drained=tuple,
        draining=lambda: False,
        metrics=metrics,
    )
    return Places(terms, PlaceNews(connect_patient(nowhere), process_id="test"))


async def _nobody() -> set[str]:
    return set()


def most_at_once(requests: Iterable[SeenRequest]) -> int:
    """Return how many of the requests a backend saw were running at the same time, at most."""
    changes: list[tuple[float, int]] = []
    for request in requests:
        changes.append((request.started_s, 1))
        if request.ended_s is not None:
            changes.append((request.ended_s, -1))
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most
