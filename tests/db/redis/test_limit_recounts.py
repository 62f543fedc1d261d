"""What Redis is told of requests it does not know: entered once, whatever comes first."""

import time
from collections.abc import AsyncIterator
from typing import Final
from uuid import uuid4

import pytest
from pydantic import SecretStr

from db.redis.limit_recounts import GRACE_S, LimitLeases, LimitRecounts, MemoryLost
from db.redis.limits import LimitStore
from db.redis.multiplex import MultiplexedRedis
from domain.limits import Ask, Held, LimitKind, Limits, Refused
from domain.recounts import Level, Recount, Running
from tests.support.limits import STANDING, Customer, admitted, age_reservations, refused, remaining

DAY: Final = ("tenant", LimitKind.TOKENS_PER_DAY)


class World:
    """A tenant with limits, and what tells Redis about it."""

    def __init__(self, redis: MultiplexedRedis) -> None:
        self.redis = redis
        self.store = LimitStore(redis, process_id="p")
        self.recounts = LimitRecounts(redis, process_id="p")
        self.one = Customer(tenant=Limits(concurrency=2, tokens_per_day=100))

    async def begin(self, recount: Recount | None = None, *, spent: int = 0) -> bool:
        """Make the counters."""
        await self.mark()
        return await self.complete(recount or Recount(sums=self.one.spent(spent)))

    async def mark(self) -> None:
        """Begin a recount."""
        await self.recounts.mark(self.one.tenant_id, "r")

    async def complete(self, recount: Recount) -> bool:
        """End it."""
        return await self.recounts.begin(self.one.tenant_id, "r", recount)

    def held(self, tokens: int = 0, *, ask: Ask | None = None, ago_s: int = 0) -> Held:
        """Return a reservation that was made some time ago."""
        return Held(ask or self.one.ask(tokens), int(time.time()) - ago_s)

    async def settle(self, held: Held, tokens: int) -> bool:
        """Settle a request."""
        return await self.store.settle(self.one.tenant_id, held.ask.request_id, tokens)

    async def left(self) -> int:
        """Return what is left of the day."""
        return (await remaining(self.store, self.one))[DAY]

    async def running(self) -> int:
        """Return how many requests run."""
        answer = await self.redis.call("HGET", f"nng:{{t:{self.one.tenant_id}}}:now", "t")
        return int(STANDING.unpack(answer)[-1]) if isinstance(answer, bytes) else 0


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    redis = MultiplexedRedis(SecretStr(redis_url), timeout_s=5)
    yield World(redis)
    await redis.aclose()


# -- requests let in without asking


async def test_one_that_runs_takes_its_place_and_its_tokens(world: World) -> None:
    await world.begin()
    await world.recounts.hold(world.held(30))

    assert (await world.left(), await world.running()) == (70, 1)


async def test_it_is_entered_even_where_no_room_is_left(world: World) -> None:
    await world.begin(spent=90)
    await world.recounts.hold(world.held(30))

    assert await world.left() == 0


async def test_entering_it_again_changes_nothing(world: World) -> None:
    held = world.held(30)
    await world.begin()
    for _ in range(2):
        await world.recounts.hold(held)

    assert (await world.left(), await world.running()) == (70, 1)


async def test_it_is_settled_like_any_other(world: World) -> None:
    held = world.held(30)
    await world.begin()
    await world.recounts.hold(held)
    await world.settle(held, 12)

    assert (await world.left(), await world.running()) == (88, 0)


async def test_one_that_ended_is_charged_once(world: World) -> None:
    held = world.held(30)
    await world.begin()
    for _ in range(2):
        await world.recounts.book(held, 12)

    assert (await world.left(), await world.running()) == (88, 0)


async def test_one_that_was_entered_and_ended_is_charged_the_fact(world: World) -> None:
    held = world.held(30)
    await world.begin()
    await world.recounts.hold(held)
    await world.recounts.book(held, 12)

    assert (await world.left(), await world.running()) == (88, 0)


async def test_it_counts_in_the_day_it_was_let_in(world: World) -> None:
    await world.begin()
    await world.recounts.book(world.held(ago_s=2 * 3600), 12)  # the day began an hour ago

    assert await world.left() == 100


@pytest.mark.parametrize(("ago_s", "left"), [(0, 1), (61, 2)])
async def test_it_takes_its_part_of_a_minute_that_lasts_still(world: World, ago_s: int, left: int) -> None:
    world.one.tenant = Limits(requests_per_minute=2, tokens_per_day=100)
    await world.begin()
    await world.recounts.book(world.held(ago_s=ago_s), 1)

    assert (await remaining(world.store, world.one))["tenant", LimitKind.REQUESTS_PER_MINUTE] == left


async def test_many_at_once_fill_a_minute_and_no_more(world: World) -> None:
    world.one.tenant = Limits(requests_per_minute=600, tokens_per_day=100)
    await world.begin()
    for _ in range(700):
        await world.recounts.book(world.held(), 0)
    refusal = await world.store.take(world.one.ask(0))

    assert isinstance(refusal, Refused)
    assert refusal.retry_after_s < 1


# -- what is told while the counters are not complete


async def test_without_counters_nothing_is_granted_whatever_is_entered(world: World) -> None:
    await world.recounts.hold(world.held(30))
    await world.recounts.book(world.held(30), 12)

    assert not isinstance(await world.store.take(world.one.ask()), Refused)
    await world.begin()
    assert await world.left() == 58


@pytest.mark.parametrize("told", ["hold", "book", "settle"])
async def test_what_is_told_during_a_recount_is_not_lost(world: World, told: str) -> None:
    held = world.held(30)
    await world.mark()
    if told == "hold":
        await world.recounts.hold(held)
    elif told == "book":
        await world.recounts.book(held, 12)
    else:
        await world.settle(held, 12)
    running = (Running("p", held),) if told == "settle" else ()
    await world.complete(Recount(sums=world.one.spent(), running=running))

    assert (await world.left(), await world.running()) == ((70, 1) if told == "hold" else (88, 0))


async def test_what_the_recount_contains_is_not_added_again(world: World) -> None:
    held = world.held(30)
    await world.begin(Recount(sums=world.one.spent(12), ended=frozenset({held.ask.request_id})))
    await world.recounts.hold(held)
    await world.recounts.book(held, 12)

    assert (await world.left(), await world.running()) == (88, 0)


async def test_what_was_settled_before_the_sums_were_told_counts_once(world: World) -> None:
    held = world.held(30)
    await world.mark()
    await world.settle(held, 12)
    await world.complete(Recount(sums=world.one.spent(12), ended=frozenset({held.ask.request_id})))

    assert (await world.left(), await world.running()) == (88, 0)


async def test_reservations_that_redis_still_knows_stay(world: World) -> None:
    ask = world.one.ask(30)
    await world.begin()
    await admitted(world.store, ask)
    await world.store.forget(world.one.tenant_id)
    heard = await world.recounts.heard_of(world.one.tenant_id)
    await world.begin(Recount(sums=world.one.spent(), running=(Running("p", world.held(ask=ask)),)))

    assert heard == {ask.request_id}
    assert (await world.left(), await world.running()) == (70, 1)


async def test_a_request_that_was_settled_without_counters_is_not_heard_of(world: World) -> None:
    await world.settle(world.held(), 12)

    assert await world.recounts.heard_of(world.one.tenant_id) == frozenset()


async def test_a_recount_during_which_redis_forgot_begins_again(world: World) -> None:
    await world.mark()
    await world.redis.call("FLUSHDB")

    with pytest.raises(MemoryLost):
        await world.complete(Recount(sums=world.one.spent()))
    assert await world.begin()


async def test_of_two_recounts_the_first_counts(world: World) -> None:
    await world.recounts.mark(world.one.tenant_id, "other")
    await world.begin(spent=40)

    assert not await world.recounts.begin(world.one.tenant_id, "other", Recount(sums=world.one.spent(0)))
    assert await world.left() == 60


async def test_a_recount_that_another_one_overtook_is_of_no_use_later(world: World) -> None:
    """What it was told is from before what Redis has counted, and forgotten, since."""
    ask = world.one.ask(30)
    await world.recounts.mark(world.one.tenant_id, "slow")
    await world.begin()
    await admitted(world.store, ask)
    await world.settle(world.held(ask=ask), 12)
    await world.store.forget(world.one.tenant_id)

    with pytest.raises(MemoryLost):
        await world.recounts.begin(world.one.tenant_id, "slow", Recount(sums=world.one.spent()))


async def test_where_the_counters_are_there_no_recount_begins(world: World) -> None:
    await world.begin()

    assert not await world.recounts.mark(world.one.tenant_id, "late")
    await world.store.forget(world.one.tenant_id)
    assert await world.recounts.mark(world.one.tenant_id, "late")


async def test_a_process_that_was_taken_for_dead_and_is_not_holds_its_place_again(world: World) -> None:
    ask = world.one.ask(30)
    await world.begin()
    await admitted(world.store, ask)
    await age_reservations(world.redis, world.one, GRACE_S)
    assert await LimitLeases(world.redis).sweep(world.one.tenant_id, frozenset()) == 1
    await world.store.forget(world.one.tenant_id)
    await world.begin(Recount(sums=world.one.spent(), running=(Running("p", world.held(ask=ask)),)))

    assert (await world.left(), await world.running()) == (70, 1)
    await world.settle(world.held(ask=ask), 12)
    assert (await world.left(), await world.running()) == (88, 0)


@pytest.mark.parametrize(("known", "told", "left"), [(0, 2, 0), (1, 2, 0), (1, 0, 1)])
async def test_a_rate_goes_on_where_it_was_highest(world: World, known: int, told: int, left: int) -> None:
    world.one.tenant = Limits(requests_per_minute=2, tokens_per_day=100)
    await world.begin()
    for _ in range(known):
        await admitted(world.store, world.one.ask())
    await world.store.forget(world.one.tenant_id)
    level = Level(LimitKind.REQUESTS_PER_MINUTE, None, 2, float(told))
    await world.begin(Recount(sums=world.one.spent(), levels=(level,)))
    await refused(world.store, world.one.ask(101))

    assert (await remaining(world.store, world.one))["tenant", LimitKind.REQUESTS_PER_MINUTE] == left


async def test_a_recount_may_be_large(world: World) -> None:
    running = tuple(Running("p", world.held(0)) for _ in range(3000))
    ended = frozenset(world.one.ask(0, request_id=uuid4()).request_id for _ in range(3000))
    await world.begin(Recount(sums=world.one.spent(), running=running, ended=ended))

    assert await world.running() == 3000
