"""Tickets and lines of several processes over one Redis: who goes on, who waits, who is refused, what is freed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

import pytest
from structlog.testing import capture_logs

from app.gateway.line import RETRY_AFTER_S, busy
from app.gateway.reach import PATIENCE_S
from db.redis.places import Answer, PlaceStore
from domain.errors import GatewayError, NoCandidate, Unavailable
from tests.support.places import MODEL, House, Process, Times, candidates, house, no_places
from tests.support.stoppable import StoppableValkey
from tests.support.waiting import until

SOON_S: Final = 5.0
ONE: Final = {"x": 1}


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[House]:
    async with house(redis_url) as world:
        yield world


class Caller:
    """One request: it asks for places among its candidates, and leaves when told to."""

    def __init__(self, process: Process, *backends: str) -> None:
        self.times = Times()
        self._backends = candidates(*backends)
        self._ticket = process.ticket(*backends, times=self.times)
        self._left = asyncio.Event()
        self.got: list[str] = []
        self.refused: GatewayError | None = None
        self.task = process.run(self._run())

    async def _run(self) -> None:
        untried = self._backends
        with self._ticket as ticket:
            try:
                while untried:
                    candidate = await ticket.place(untried)
                    self.got.append(candidate.backend)
                    untried = tuple(each for each in untried if each is not candidate)
                    await self._left.wait()
                    self._left.clear()
            except GatewayError as refusal:
                self.refused = refusal

    @property
    def stands(self) -> bool:
        return self._ticket.stands

    def fail(self) -> None:
        """Let the attempt fail: the next candidate is asked for."""
        self._left.set()

    async def end(self) -> None:
        """End the request, whatever it does."""
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


async def served(*callers: Caller) -> list[str]:
    """Return where these requests got a place."""
    await until(lambda: all(caller.got for caller in callers), within_s=SOON_S)
    return [caller.got[-1] for caller in callers]


async def standing(*callers: Caller) -> None:
    await until(lambda: all(caller.stands for caller in callers), within_s=SOON_S)


async def know(process: Process) -> None:
    """Let Redis know of the model: of one it does not know, nothing is given in the first moment."""
    caller = Caller(process, "x")
    await served(caller)
    await caller.end()


async def refusal(caller: Caller) -> GatewayError:
    await until(lambda: caller.refused is not None, within_s=SOON_S)
    assert caller.refused is not None
    return caller.refused


# -- which candidate


async def test_without_any_cap_there_is_no_ticket(world: House) -> None:
    a = await world.process("a", caps=ONE)

    for places in (a.places, no_places(a.metrics)):
        with places.ticket(MODEL, candidates("free"), Times()) as ticket:
            assert ticket is None


async def test_a_candidate_without_a_cap_is_taken_without_asking_anybody(world: House) -> None:
    a = await world.process("a", caps=ONE)
    await a.redis.aclose()

    assert await served(Caller(a, "free", "x")) == ["free"]
    assert await a.redis.call("DBSIZE") == 0


async def test_who_finds_a_capped_candidate_full_goes_to_the_one_without_a_cap(world: House) -> None:
    a = await world.process("a", caps=ONE)
    await served(Caller(a, "x"))

    assert await served(Caller(a, "x", "free")) == ["free"]


async def test_the_first_request_of_all_goes_to_the_first_candidate(world: House) -> None:
    a = await world.process("a", caps=ONE)

    assert await served(Caller(a, "x", "free")) == ["x"]


async def test_a_full_candidate_is_passed_over(world: House) -> None:
    a, b = [await world.process(name, caps={"x": 1, "y": 1}) for name in "ab"]
    first = Caller(a, "x", "y")
    await served(first)

    assert await served(Caller(b, "x", "y")) == ["y"]


async def test_nobody_leaves_the_line_of_a_good_backend_for_one_that_cools(world: House) -> None:
    a = await world.process("a", caps={"x": 1, "y": 1})
    world.cooling.add("y")
    first = Caller(a, "x", "y")
    await served(first)
    second = Caller(a, "x", "y")
    await standing(second)
    assert not second.got
    world.cooling.clear()

    assert await served(second) == ["y"]


async def test_where_all_cool_they_are_taken_all_the_same(world: House) -> None:
    a = await world.process("a", caps={"x": 1, "y": 1})
    world.cooling |= {"x", "y"}

    assert await served(Caller(a, "x", "y"), Caller(a, "x", "y")) == ["x", "y"]


async def test_who_waits_for_a_backend_that_is_drained_goes_on_to_the_next_or_is_refused(
    world: House,
) -> None:
    a = await world.process("a", caps={"x": 1, "y": 1})
    world.cooling.add("y")
    first = Caller(a, "x", "y")
    await served(first)
    both, only = Caller(a, "x", "y"), Caller(a, "x")
    await standing(both, only)
    world.drained.add("x")

    assert await served(both) == ["y"]
    assert isinstance(await refusal(only), NoCandidate)
    assert first.got == ["x"]


# -- how places pass on


async def test_a_place_passes_on_in_order_of_arrival_over_processes(world: House) -> None:
    a, b = [await world.process(name, caps=ONE) for name in "ab"]
    callers = []
    for number in range(6):
        callers.append(Caller((a, b)[number % 2], "x"))
        await (served if number == 0 else standing)(callers[-1])
    order = []
    for caller in callers:
        await served(caller)
        order.append([len(each.got) for each in callers])
        await caller.end()

    assert order == [[1] * served_ones + [0] * (6 - served_ones) for served_ones in range(1, 7)]


async def test_lost_news_only_delay(world: House) -> None:
    a, b = [await world.process(name, caps=ONE, hears=False) for name in "ab"]
    first = Caller(a, "x")
    await served(first)
    second = Caller(b, "x")
    await standing(second)
    await first.end()

    assert await served(second) == ["x"]


async def test_a_failed_attempt_gives_its_place_back_and_keeps_its_order_of_arrival(world: House) -> None:
    a = await world.process("a", caps={"x": 1, "y": 1})
    first = Caller(a, "x", "y")
    await served(first)
    elsewhere = Caller(a, "y")
    await served(elsewhere)
    later = Caller(a, "y")
    waiting = Caller(a, "x")
    await standing(later, waiting)
    first.fail()

    assert await served(waiting) == ["x"]
    await standing(first)
    await elsewhere.end()
    await until(lambda: first.got == ["x", "y"], within_s=SOON_S)
    assert not later.got


async def test_who_leaves_gives_everything_back(world: House) -> None:
    a, b = [await world.process(name, caps=ONE) for name in "ab"]
    first = Caller(a, "x")
    await served(first)
    second = Caller(b, "x")
    await standing(second)
    third = Caller(a, "x")
    await standing(third)
    await second.end()
    await first.end()

    assert await served(third) == ["x"]


async def test_who_leaves_in_the_moment_it_gets_a_place_gives_it_back(world: House) -> None:
    a, b = [await world.process(name, caps=ONE) for name in "ab"]
    for _ in range(30):
        leaving = Caller(a, "x")
        other = Caller(b, "x")
        for _ in range(40):
            await asyncio.sleep(0)
            if leaving.got:
                break
        await leaving.end()
        await served(other)
        await other.end()

    assert await served(Caller(a, "x")) == ["x"]


async def test_a_line_that_nobody_needs_is_forgotten(world: House) -> None:
    a = await world.process("a", caps=ONE)
    caller = Caller(a, "x")
    await served(caller)
    assert a.figure("nng_places_in_use", {"backend": "x"}) == 1
    await caller.end()
    await a.places.leave()

    assert a.figure("nng_places_in_use", {"backend": "x"}) == 0
    assert await served(Caller(a, "x")) == ["x"]


async def test_a_process_that_ended_in_order_leaves_its_places_at_once(world: House) -> None:
    a, b = [await world.process(name, caps=ONE) for name in "ab"]
    caller = Caller(a, "x")
    await served(caller)
    await caller.end()
    await a.places.leave()
    await a.redis.aclose()

    assert await served(Caller(b, "x")) == ["x"]


# -- who is refused


async def test_who_waits_too_long_is_refused(world: House) -> None:
    a = await world.process("a", caps=ONE, longest_wait_s=0.2)
    await served(Caller(a, "x"))
    late = Caller(a, "x")

    assert isinstance(await refusal(late), NoCandidate)
    assert 0.15 <= late.times.seconds < SOON_S
    assert a.figure("nng_line_refusals_total", {"reason": "too_long"}) == 1


async def test_a_full_line_refuses_at_once(world: House) -> None:
    a, b = [await world.process(name, caps=ONE, most_waiting=1) for name in "ab"]
    await served(Caller(a, "x"))
    await standing(Caller(b, "x"))
    late = Caller(a, "x")

    assert isinstance(await refusal(late), NoCandidate)
    assert late.times.seconds == 0
    assert a.figure("nng_line_refusals_total", {"reason": "full"}) == 1


async def test_where_nobody_waits_the_first_request_of_all_is_served(world: House) -> None:
    a = await world.process("a", caps=ONE, most_waiting=0)
    first = Caller(a, "x")

    assert await served(first) == ["x"]
    assert isinstance(await refusal(Caller(a, "x")), NoCandidate)


async def test_a_process_that_is_told_to_stop_refuses_who_waits(world: House) -> None:
    a = await world.process("a", caps=ONE)
    runs = Caller(a, "x")
    await served(runs)
    waits = Caller(a, "x")
    await standing(waits)
    world.draining = True

    assert isinstance(await refusal(waits), Unavailable)
    assert runs.refused is None


async def test_the_refused_are_not_told_to_come_back_all_at_once() -> None:
    told = {busy().retry_after_s for _ in range(200)}

    assert told == set(range(RETRY_AFTER_S[0], RETRY_AFTER_S[1] + 1))


class BrokenStore(PlaceStore):
    """A store with a mistake in it."""

    def __init__(self) -> None:
        """Know no Redis."""

    async def say(self, model: str, **said: object) -> list[Answer]:
        raise ZeroDivisionError(model, said)


async def test_a_mistake_of_ours_leaves_nobody_waiting(world: House) -> None:
    a = await world.process("a", caps=ONE, store=BrokenStore())

    for _ in range(2):
        assert isinstance(await refusal(Caller(a, "x")), NoCandidate)
    assert a.figure("nng_line_refusals_total", {"reason": "fault"}) == 2


async def test_who_waits_is_counted_and_its_time_booked(world: House) -> None:
    a = await world.process("a", caps=ONE)
    await know(a)
    first = Caller(a, "x")
    await served(first)
    second = Caller(a, "x")
    await standing(second)
    assert a.figure("nng_waiting_requests") == 1
    await first.end()
    await served(second)

    assert first.times.seconds == 0
    assert second.times.seconds > 0
    assert a.figure("nng_waiting_requests") == 0
    assert a.figure("nng_time_in_line_seconds_count") == 2  # the very first one included


# -- Redis is away


@pytest.fixture
async def fragile(own_valkey: StoppableValkey) -> AsyncIterator[House]:
    own_valkey.start()
    async with house(own_valkey.url) as world:
        yield world


async def together(world: House, caps: dict[str, int], *names: str) -> list[Process]:
    """Start processes that know of each other."""
    started = [await world.process(name, caps=caps) for name in names]
    for process in started:
        await process.processes.look()
    return started


@pytest.mark.parametrize("how", ["gone", "silent"])
async def test_without_redis_each_process_uses_its_share_and_the_rest_waits(
    fragile: House, own_valkey: StoppableValkey, how: str
) -> None:
    a, b = await together(fragile, {"x": 3}, "a", "b")
    with own_valkey.gone() if how == "gone" else own_valkey.silent():
        of_a, of_b = [[Caller(process, "x") for _ in range(3)] for process in (a, b)]
        await served(*of_a[:2], *of_b[:1])
        await standing(of_a[2], *of_b[1:])
        await of_b[0].end()
        await served(of_b[1])
        assert [len(caller.got) for caller in (*of_a, *of_b)] == [1, 1, 0, 1, 1, 0]
    assert a.figure("nng_places_taken_alone_total", {"backend": "x"}) == 2


async def test_an_outage_is_told_once_and_so_is_its_end(fragile: House, own_valkey: StoppableValkey) -> None:
    (a,) = await together(fragile, {"x": 2}, "a")
    with capture_logs() as logs:
        with own_valkey.gone():
            await served(Caller(a, "x"), Caller(a, "x"))
        await until(lambda: not a.terms.reach.is_alone, within_s=SOON_S)

    told = [(each["event"], each["log_level"]) for each in logs if each["event"].startswith("places_")]
    assert told == [("places_unreachable", "warning"), ("places_reachable_again", "info")]


async def test_what_was_taken_without_redis_counts_when_it_is_back(
    fragile: House, own_valkey: StoppableValkey
) -> None:
    a, b = await together(fragile, {"x": 2}, "a", "b")
    with own_valkey.gone():
        running = [Caller(process, "x") for process in (a, b)]
        await served(*running)
    waiting = [Caller(process, "x") for process in (a, b)]
    await until(lambda: not (a.terms.reach.is_alone or b.terms.reach.is_alone), within_s=SOON_S)
    await standing(*waiting)
    await running[0].end()
    await until(lambda: any(caller.got for caller in waiting), within_s=SOON_S)

    assert sum(len(caller.got) for caller in waiting) == 1


async def test_what_waits_when_redis_goes_away_waits_on(fragile: House, own_valkey: StoppableValkey) -> None:
    a, b = await together(fragile, ONE, "a", "b")
    first = Caller(a, "x")
    await served(first)
    second = Caller(a, "x")
    await standing(second)
    with own_valkey.gone():
        await until(lambda: a.terms.reach.is_alone, within_s=SOON_S)
        await first.end()

        assert await served(second) == ["x"]
        late = Caller(b, "x")
        await standing(late)
        assert not late.got


async def test_a_short_silence_only_delays(fragile: House, own_valkey: StoppableValkey) -> None:
    (a,) = await together(fragile, ONE, "a")
    with own_valkey.silent():
        caller = Caller(a, "x")
        await asyncio.wait([caller.task], timeout=PATIENCE_S / 2)
        assert (caller.got, caller.refused) == ([], None)

    assert await served(caller) == ["x"]
    assert a.figure("nng_places_taken_alone_total", {"backend": "x"}) == 0


async def test_who_does_not_know_its_share_gets_no_place(fragile: House, own_valkey: StoppableValkey) -> None:
    a = await fragile.process("a", caps=ONE)
    with own_valkey.gone():
        assert isinstance(await refusal(Caller(a, "x")), NoCandidate)

    assert a.figure("nng_line_refusals_total", {"reason": "outage"}) == 1


async def test_without_redis_the_line_has_its_bounds_too(fragile: House, own_valkey: StoppableValkey) -> None:
    fragile.alive |= {"b"}
    a = await fragile.process("a", caps={"x": 2}, most_waiting=1, longest_wait_s=2)
    await a.processes.look()
    with own_valkey.gone():
        await served(Caller(a, "x"))
        second = Caller(a, "x")
        await standing(second)
        assert isinstance(await refusal(Caller(a, "x")), NoCandidate)
        assert isinstance(await refusal(second), NoCandidate)

    assert a.figure("nng_line_refusals_total", {"reason": "full"}) == 1
    assert a.figure("nng_line_refusals_total", {"reason": "too_long"}) == 1


async def test_a_redis_that_forgot_gives_away_nothing_that_is_held(world: House) -> None:
    processes = [await world.process(name, caps={"x": 4}) for name in "abc"]
    running = [Caller(processes[0], "x") for _ in range(4)]
    await served(*running)
    waiting = [Caller(process, "x") for process in processes for _ in range(3)]
    await standing(*waiting)
    await processes[0].redis.call("FLUSHALL")
    await running[0].end()
    await until(lambda: any(caller.got for caller in waiting), within_s=SOON_S)

    assert sum(len(caller.got) for caller in waiting) == 1
