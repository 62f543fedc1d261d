"""One process's end of a model's line: who of its requests holds a place, and who waits for one.

One task for each model with anything to say speaks to Redis, with one question under way at a time, so that what this
process holds is always known. Requests and their endings only leave word for it, which needs no await.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Final, Protocol, Self

import structlog
from redis.exceptions import RedisError

from app.gateway.live_processes import LiveProcesses
from app.gateway.reach import Reach
from app.metrics import Metrics
from db.redis.places import Answer, PlaceStore, Verdict, Wanted
from domain.errors import GatewayError, NoCandidate, Unavailable
from domain.route import Candidate, eligible

TICK_S: Final = 0.05
"""How often a process with somebody in line speaks whatever it hears: an offer is kept for it twice as long."""
RENEW_S: Final = 1.0
"""How often a process that holds places speaks."""
RETRY_AFTER_S: Final = (3, 8)

_log = structlog.get_logger()


def busy() -> NoCandidate:
    """Return the refusal of a request that nobody has room for. Not everybody is told to come back at once."""
    return NoCandidate(random.randint(*RETRY_AFTER_S))  # noqa: S311 # nosec B311 - it only spreads load


class Terms:
    """What all lines of a process have in common.

    Parameters
    ----------
    caps
        `max_in_flight` of each backend that has one.
    most_waiting, longest_wait_s
        Bounds of every line.
    cooling
        The backends that are in cooldown now.
    drained
        The backends that an operator has taken out of service.
    draining
        Whether this process is told to stop: then nobody waits any more.
    """

    def __init__(
        self,
        store: PlaceStore,
        *,
        caps: Mapping[str, int],
        most_waiting: int,
        longest_wait_s: float,
        processes: LiveProcesses,
        cooling: Callable[[], Collection[str]],
        drained: Callable[[], Collection[str]],
        draining: Callable[[], bool],
        metrics: Metrics,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.caps = dict(caps)
        self.most_waiting = most_waiting
        self.longest_wait_s = longest_wait_s
        self.processes = processes
        self.cooling = cooling
        self.drained = drained
        self.draining = draining
        self.metrics = metrics
        self.now = now
        self.reach = Reach(processes, now=now)
        self.numbers = itertools.count(1)

    def refusal(self, reason: str) -> NoCandidate:
        """Count a refusal and return it."""
        self.metrics.add(self.metrics.line_refusals, (reason,))
        return busy()


class QueueTimes(Protocol):
    """Where a request's time in line is booked."""

    def queued(self, seconds: float) -> None:
        """Note that the request stood in line for so long."""


class Ticket:
    """One request's claim to a place: it holds one at most, and none any more at the end of its `with` block.

    Its number in the order of arrival stays the same, however many places it asks for one after the other.
    """

    __slots__ = (
        "_decided", "_line", "_line_of", "_terms", "_times", "_untried", "_waited_s",
        "arrival", "backend", "deadline", "number", "stands",
    )  # fmt: skip

    def __init__(self, line_of: "Callable[[], Line]", times: QueueTimes, terms: Terms) -> None:
        self.number = next(terms.numbers)
        self.arrival = 0
        self.backend: str | None = None
        self.stands = False
        self.deadline = 0.0
        self._line_of = line_of
        self._line: Line | None = None
        self._times = times
        self._terms = terms
        self._untried: Sequence[Candidate] = ()
        self._waited_s = 0.0
        self._decided: asyncio.Future[Candidate | GatewayError] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()

    async def place(self, untried: Sequence[Candidate]) -> Candidate:
        """Return the first of the untried candidates that has room, with a place there; wait in line if none has.

        The place of an earlier attempt is given back.

        Raises
        ------
        NoCandidate
            Too many wait already; it took too long; all were drained meanwhile; or Redis is away, and nobody knows
            what this process may use.
        Unavailable
            This process was told to stop meanwhile.
        """
        self.give_back()
        self._untried = untried
        wants, free = self.options()
        if free is not None and not wants:
            return free
        began = self._terms.now()
        self.deadline = began + self._terms.longest_wait_s - self._waited_s
        self._decided = asyncio.get_running_loop().create_future()
        self._line = self._line_of()
        self._line.join(self)
        try:
            outcome = await self._decided
        finally:
            self._line.forget(self)
            self._book(began)
        if isinstance(outcome, GatewayError):
            raise outcome
        return outcome

    def _book(self, began: float) -> None:
        if self.stands:
            self.stands = False
            seconds = self._terms.now() - began
            self._waited_s += seconds
            self._times.queued(seconds)
            self._terms.metrics.time_in_line.observe(seconds)

    def options(self) -> tuple[tuple[str, ...], Candidate | None]:
        """Return the backends it wants a place at, the best first, and the candidate after them that needs none.

        Neither is left if all are drained.
        """
        wants: list[str] = []
        drained = self._terms.drained()
        in_service = [each for each in self._untried if each.backend not in drained]
        for candidate in eligible(in_service, self._terms.cooling()):
            if candidate.backend not in self._terms.caps:
                return tuple(wants), candidate
            wants.append(candidate.backend)
        return tuple(wants), None

    def take(self, backend: str) -> None:
        """Let the request go on with the place it was given."""
        self.backend = backend
        self.decide(next(each for each in self._untried if each.backend == backend))

    def decide(self, outcome: Candidate | GatewayError) -> None:
        """Let the request go on, with a candidate or as refused."""
        if self._decided is not None and not self._decided.done():
            self._decided.set_result(outcome)

    def give_back(self) -> None:
        """Give back the place it holds, if any."""
        backend, self.backend = self.backend, None
        if backend is not None and self._line is not None:
            self._line.give_back(backend)


class Line:
    """One process's end of one model's line.

    Its task ends, after calling `on_end`, when nobody has needed it for a while.
    """

    def __init__(self, model: str, terms: Terms, *, on_end: Callable[[], None]) -> None:
        self.model = model
        self.held: dict[str, int] = {}
        self._terms = terms
        self._on_end = on_end
        self._tickets: dict[int, Ticket] = {}
        self._unsaid = False
        self._called = False
        self._is_ending = False
        self._sleeping: asyncio.Future[None] | None = None
        self.task = asyncio.create_task(self._converse())

    @property
    def waiting(self) -> int:
        """How many of this process's requests stand in line."""
        return sum(ticket.stands for ticket in self._tickets.values())

    def join(self, ticket: Ticket) -> None:
        """Ask for a place."""
        self._tickets[ticket.number] = ticket
        self._changed()

    def forget(self, ticket: Ticket) -> None:
        """Ask no longer; nothing happens if that is decided."""
        if self._tickets.pop(ticket.number, None) is not None:
            self._changed()

    def give_back(self, backend: str) -> None:
        """Take a place back."""
        self.held[backend] -= 1
        if not self.held[backend]:
            del self.held[backend]
        self._changed()

    def end_soon(self) -> None:
        """Say what is left to say, and end without waiting for anybody who might need the line again."""
        self._is_ending = True
        self.speak()

    def speak(self) -> None:
        """Speak as soon as the last question is answered."""
        self._called = True
        if self._sleeping is not None and not self._sleeping.done():
            self._sleeping.set_result(None)

    def _changed(self) -> None:
        self._unsaid = True
        self.speak()

    async def _converse(self) -> None:
        try:
            await self._called_within(RENEW_S)
            while self._tickets or self.held or self._unsaid:
                try:
                    await self._say()
                except Exception:  # noqa: BLE001 - a mistake of ours: nobody waits for nothing, what is held is known
                    _log.exception("line_failed", model=self.model)
                    self._refuse_all("fault")
                await self._called_within(TICK_S if self._tickets or self._is_ending else RENEW_S)
        finally:
            self._on_end()
            self._refuse_all("fault")

    async def _called_within(self, seconds: float) -> None:
        if not self._called:
            loop = asyncio.get_running_loop()
            self._sleeping = loop.create_future()
            timer = loop.call_later(seconds, self.speak)
            try:
                await self._sleeping
            finally:
                timer.cancel()
        self._called = False

    async def _say(self) -> None:
        self._unsaid = False
        wanted = self._wanted()
        terms = self._terms
        try:
            answers = await terms.store.say(
                self.model,
                held=self.held,
                caps={backend: terms.caps[backend] for one in wanted for backend in one.backends},
                wanted=wanted,
                most_waiting=terms.most_waiting,
                recall_s=terms.reach.recall_s,
            )
        except RedisError as exc:
            self._unsaid = True
            terms.reach.missed(exc)
            self._decide_alone(wanted)
        else:
            terms.reach.reached()
            for answer in answers:
                self._act(answer)

    def _wanted(self) -> list[Wanted]:
        """Return who asks, in the order of arrival; decide on those with whom Redis has nothing to do."""
        now, draining = self._terms.now(), self._terms.draining()
        wanted = []
        for number in sorted(self._tickets):
            ticket = self._tickets[number]
            wants, free = ticket.options()
            if draining and ticket.stands:
                self._decide(ticket, Unavailable("draining"))
            elif now >= ticket.deadline:
                self._decide(ticket, self._terms.refusal("too_long"))
            elif free is not None and not wants:
                self._decide(ticket, free)
            elif not wants:
                self._decide(ticket, self._terms.refusal("drained"))
            else:
                wanted.append(Wanted(number, ticket.arrival, free is None, wants))
        return wanted

    def _act(self, answer: Answer) -> None:
        ticket = self._tickets.get(answer.number)
        if ticket is None:
            return  # it left while the question was under way: the next word gives back what it was given
        ticket.arrival = answer.arrival
        if answer.verdict is Verdict.PLACE:
            self._give(ticket, answer.backend)
        elif answer.verdict is Verdict.FULL:
            self._decide(ticket, self._terms.refusal("full"))
        elif answer.verdict is Verdict.PASS:
            self._pass(ticket)
        else:
            ticket.stands = True

    def _decide_alone(self, wanted: Sequence[Wanted]) -> None:
        """Give what this process may by itself, in the order of arrival."""
        terms, waiting = self._terms, 0
        is_alone = terms.reach.is_alone
        for one in wanted:
            ticket = self._tickets.get(one.number)
            if ticket is None:
                continue
            backend = self._own_room(one.backends) if is_alone else None
            if backend is not None:
                terms.metrics.add(terms.metrics.places_taken_alone, (backend,))
                self._give(ticket, backend)
            elif not one.stays:
                self._pass(ticket)
            elif is_alone and not terms.processes.are_known:
                self._decide(ticket, terms.refusal("outage"))
            elif is_alone and not ticket.stands and waiting >= terms.most_waiting:
                self._decide(ticket, terms.refusal("full"))
            elif is_alone:
                ticket.stands = True
                waiting += 1

    def _own_room(self, backends: Sequence[str]) -> str | None:
        terms = self._terms
        if not terms.processes.are_known:
            return None
        shares = ((each, terms.processes.share(terms.caps[each])) for each in backends)
        return next((each for each, share in shares if self.held.get(each, 0) < share), None)

    def _refuse_all(self, reason: str) -> None:
        for ticket in [*self._tickets.values()]:
            self._decide(ticket, self._terms.refusal(reason))

    def _give(self, ticket: Ticket, backend: str) -> None:
        self.held[backend] = self.held.get(backend, 0) + 1
        del self._tickets[ticket.number]
        ticket.take(backend)

    def _pass(self, ticket: Ticket) -> None:
        """Let a request go where no place is needed, if that is still possible."""
        _, free = ticket.options()
        if free is not None:
            self._decide(ticket, free)

    def _decide(self, ticket: Ticket, outcome: Candidate | GatewayError) -> None:
        del self._tickets[ticket.number]
        ticket.decide(outcome)
