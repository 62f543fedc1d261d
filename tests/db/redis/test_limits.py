"""Limits on a real server: each alone, all together, and never more than there is."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final
from uuid import uuid4

import pytest
from pydantic import SecretStr

from db.redis.limit_recounts import LimitLeases
from db.redis.limits import LimitStore, OutsidePeriods
from db.redis.multiplex import MultiplexedRedis
from domain.limits import Admitted, LimitKind, Limits, PeriodBounds, Refused, Spent, Unknown
from domain.values import KeyId
from tests.support.clock import Clock
from tests.support.limits import (
    DAY_S,
    Customer,
    admitted,
    age_reservations,
    begin,
    bounds,
    refused,
    remaining,
)

# One token or request of a limit this small comes back after so long that no test sees it.
LARGE: Final = 10**9
NOBODY: Final = frozenset[str]()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[MultiplexedRedis]:
    redis = MultiplexedRedis(SecretStr(redis_url), timeout_s=5)
    yield redis
    await redis.aclose()


@pytest.fixture
def store(redis: MultiplexedRedis) -> LimitStore:
    return LimitStore(redis, process_id="alive")


@pytest.fixture
def leases(redis: MultiplexedRedis) -> LimitLeases:
    return LimitLeases(redis)


async def customer(
    store: LimitStore, *, tenant: Limits | None = None, key: Limits | None = None, spent: int = 0
) -> Customer:
    made = Customer(tenant=tenant or Limits(), key=key or Limits())
    assert await begin(store, made.tenant_id, made.spent(spent))
    return made


async def memory(redis: MultiplexedRedis, of: Customer) -> dict[bytes, object]:
    """Return all that Redis keeps of a tenant."""
    keys = await redis.call("KEYS", f"nng:{{t:{of.tenant_id}}}*")
    assert isinstance(keys, list)
    return {key: await redis.call("DUMP", key) for key in sorted(keys)}


SCOPES: Final = ("tenant", "key")
# The least and the most that whoever comes after the last has to wait.
WAITS: Final = {
    LimitKind.REQUESTS_PER_MINUTE: (19.0, 20.0),
    LimitKind.TOKENS_PER_MINUTE: (19.0, 20.0),
    LimitKind.CONCURRENCY: (1.0, 1.0),
    LimitKind.TOKENS_PER_DAY: (DAY_S - 3660, DAY_S - 3600),
    LimitKind.TOKENS_PER_MONTH: (28 * DAY_S - 60, 28 * DAY_S),
}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", list(LimitKind))
async def test_each_limit_admits_to_its_last_and_no_further(
    store: LimitStore, scope: str, kind: LimitKind
) -> None:
    one = await customer(store)
    setattr(one, scope, Limits(**{kind.value: 3}))

    left = [(await admitted(store, one.ask(1))).states[0].remaining for _ in range(3)]
    refusal = await refused(store, one.ask(1))

    assert left == [2, 1, 0]
    assert (refusal.refused.kind, refusal.refused.scope, refusal.refused.limit) == (kind, scope, 3)
    assert refusal.states == (refusal.refused,)
    assert WAITS[kind][0] <= refusal.retry_after_s <= WAITS[kind][1]


@pytest.mark.parametrize(
    "kind", [LimitKind.TOKENS_PER_MINUTE, LimitKind.TOKENS_PER_DAY, LimitKind.TOKENS_PER_MONTH]
)
async def test_one_ask_may_take_a_whole_limit_and_not_a_token_more(
    store: LimitStore, kind: LimitKind
) -> None:
    one = await customer(store, tenant=Limits(**{kind.value: 100}))

    await refused(store, one.ask(101))
    await admitted(store, one.ask(100))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", list(LimitKind))
async def test_a_limit_of_nothing_admits_nothing(store: LimitStore, scope: str, kind: LimitKind) -> None:
    one = await customer(store)
    setattr(one, scope, Limits(**{kind.value: 0}))

    assert (await refused(store, one.ask(1))).retry_after_s > 0


async def test_the_states_tell_tenant_before_key_in_the_order_of_kinds(store: LimitStore) -> None:
    one = await customer(
        store, tenant=Limits(10, 1000, 10, 10_000, 100_000), key=Limits(5, 500, 5, 5000, 50_000)
    )

    states = (await admitted(store, one.ask(100))).states

    assert [(state.scope, state.kind) for state in states] == [(s, k) for s in SCOPES for k in LimitKind]
    assert [state.limit for state in states] == [10, 1000, 10, 10_000, 100_000, 5, 500, 5, 5000, 50_000]
    assert [state.remaining for state in states] == [9, 900, 9, 9900, 99_900, 4, 400, 4, 4900, 49_900]
    assert [state.reset_s for state in states if "minute" in state.kind] == [6.0, 6.0, 12.0, 12.0]


async def test_of_several_refusals_the_one_that_opens_last_is_told(store: LimitStore) -> None:
    one = await customer(
        store, tenant=Limits(tokens_per_minute=100, tokens_per_day=100), key=Limits(tokens_per_month=100)
    )
    await admitted(store, one.ask(60))

    refusal = await refused(store, one.ask(60))

    assert (refusal.refused.kind, refusal.refused.scope) == (LimitKind.TOKENS_PER_MONTH, "key")


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", list(LimitKind))
async def test_a_refusal_by_any_one_limit_changes_nothing(
    store: LimitStore, redis: MultiplexedRedis, scope: str, kind: LimitKind
) -> None:
    wide = Limits(LARGE, LARGE, LARGE, LARGE, LARGE)
    one = await customer(store, tenant=wide, key=wide)
    await admitted(store, one.ask(10))
    before = await memory(redis, one)

    setattr(one, scope, Limits(**{**{k.value: LARGE for k in LimitKind}, kind.value: 1}))
    if kind in {LimitKind.REQUESTS_PER_MINUTE, LimitKind.CONCURRENCY}:
        setattr(one, scope, Limits(**{**{k.value: LARGE for k in LimitKind}, kind.value: 0}))
    await refused(store, one.ask(10))

    assert await memory(redis, one) == before


async def test_keys_share_their_tenants_limit(store: LimitStore) -> None:
    one = await customer(store, tenant=Limits(requests_per_minute=2), key=Limits(requests_per_minute=2))
    await admitted(store, one.ask())
    one.key_id = KeyId(uuid4())

    states = (await admitted(store, one.ask())).states

    assert [state.remaining for state in states] == [0, 1]


async def test_tenants_share_nothing(store: LimitStore) -> None:
    first, second = [await customer(store, tenant=Limits(requests_per_minute=1)) for _ in range(2)]
    await admitted(store, first.ask())

    await admitted(store, second.ask())


async def test_a_rate_refills_evenly(store: LimitStore) -> None:
    one = await customer(store, tenant=Limits(requests_per_minute=6000))
    began = time.monotonic()
    spent = 0
    while not isinstance(answer := await store.take(one.ask()), Refused):
        spent += 1
    elapsed = time.monotonic() - began

    assert 6000 <= spent <= 6000 + 100 * elapsed + 1
    assert 0 < answer.retry_after_s <= 0.011
    await asyncio.sleep(answer.retry_after_s)
    await admitted(store, one.ask())


# Settlement


async def test_a_settlement_returns_what_was_not_used(store: LimitStore) -> None:
    one = await customer(
        store, tenant=Limits(None, LARGE, 9, 1000, 2000), key=Limits(None, LARGE, 9, 500, 700)
    )
    ask = one.ask(400)
    await admitted(store, ask)

    assert await store.settle(one.tenant_id, ask.request_id, 150)
    left = await remaining(store, one)
    assert [left[s, k] for s in SCOPES for k in list(LimitKind)[2:]] == [9, 850, 1850, 9, 350, 550]


async def test_a_settlement_returns_tokens_of_the_minute(store: LimitStore) -> None:
    one = await customer(store, tenant=Limits(tokens_per_minute=100))
    ask = one.ask(100)
    await admitted(store, ask)
    await refused(store, one.ask(60))
    await store.settle(one.tenant_id, ask.request_id, 40)

    await admitted(store, one.ask(60))


async def test_a_request_that_took_more_than_it_reserved_is_charged_in_full(store: LimitStore) -> None:
    one = await customer(store, tenant=Limits(tokens_per_minute=100, tokens_per_day=100))
    ask = one.ask(10)
    await admitted(store, ask)
    await store.settle(one.tenant_id, ask.request_id, 250)

    refusal = await refused(store, one.ask(1))
    assert [state.remaining for state in refusal.states] == [0, 0]
    assert 89 <= refusal.states[0].reset_s - 60 <= 90


async def test_a_request_is_settled_once(store: LimitStore, redis: MultiplexedRedis) -> None:
    one = await customer(store, tenant=Limits(tokens_per_day=100))
    ask = one.ask(50)
    await admitted(store, ask)
    await store.settle(one.tenant_id, ask.request_id, 20)
    before = await memory(redis, one)

    assert not await store.settle(one.tenant_id, ask.request_id, 20)
    assert await memory(redis, one) == before


async def test_what_was_never_admitted_is_not_settled(store: LimitStore) -> None:
    one = await customer(store, tenant=Limits(tokens_per_day=100))

    assert not await store.settle(one.tenant_id, one.ask().request_id, 20)
    assert (await remaining(store, one))["tenant", LimitKind.TOKENS_PER_DAY] == 100


async def test_any_process_may_settle(store: LimitStore, redis: MultiplexedRedis) -> None:
    one = await customer(store, tenant=Limits(concurrency=1))
    ask = one.ask()
    await admitted(store, ask)

    assert await LimitStore(redis, process_id="another").settle(one.tenant_id, ask.request_id, 0)
    await admitted(store, one.ask())


async def test_a_canceled_ask_holds_nothing(store: LimitStore) -> None:
    one = await customer(store, tenant=Limits(concurrency=1))
    asking = asyncio.create_task(store.take(one.ask()))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    await admitted(store, one.ask())


async def test_who_asks_again_holds_no_more_than_once(store: LimitStore) -> None:
    one = await customer(store, tenant=Limits(concurrency=5, tokens_per_day=100))
    ask = one.ask(50)
    await admitted(store, ask)
    answer = await store.take(ask, again=True)

    assert isinstance(answer, Admitted)
    assert list((await remaining(store, one)).values()) == [4, 50]


async def test_clocks_that_part_refuse_nobody(store: LimitStore, redis: MultiplexedRedis) -> None:
    one = await customer(store, tenant=Limits(concurrency=2))
    clock = Clock()
    parting = LimitStore(redis, process_id="parting", now=clock)
    await admitted(parting, one.ask())
    clock.at -= 1000

    await admitted(parting, one.ask())
    await refused(parting, one.ask())


async def test_nothing_but_sums_is_left_when_all_is_settled(
    store: LimitStore, redis: MultiplexedRedis
) -> None:
    one = await customer(store, tenant=Limits(10, 100, 10, 100, 100))
    ask = one.ask(50)
    await admitted(store, ask)
    await store.settle(one.tenant_id, ask.request_id, 0)

    kept = {key.rsplit(b"}:")[1].split(b":")[0] for key in await memory(redis, one)}
    assert kept == {b"epoch", b"d", b"m", b"r"}


# Periods


async def redis_now(redis: MultiplexedRedis) -> int:
    now = await redis.call("TIME")
    assert isinstance(now, list)
    return int(now[0])


def around(now: int, which: int) -> PeriodBounds:
    """Return bounds whose previous (0), current (1) or next (2) period holds now."""
    since = 1800 + DAY_S * (which - 1)
    return bounds(now, DAY_S, since=since)


@pytest.mark.parametrize("which", [0, 1, 2])
async def test_redis_chooses_the_period_that_holds_its_now(
    store: LimitStore, redis: MultiplexedRedis, which: int
) -> None:
    now = await redis_now(redis)
    one = Customer(now=now, tenant=Limits(tokens_per_day=100))
    one.day = around(now, which)
    starts = (one.day.previous, one.day.current, one.day.next, one.day.end)
    await begin(
        store,
        one.tenant_id,
        [
            Spent(LimitKind.TOKENS_PER_DAY, start, end, None, spent)
            for start, end, spent in zip(starts, starts[1:], (10, 20, 30), strict=False)
        ],
    )

    answer = await admitted(store, one.ask(5))

    assert answer.states[0].remaining == 100 - (10, 20, 30)[which] - 5
    assert abs(answer.states[0].reset_s - (starts[which + 1] - now)) < 10


async def test_a_period_begins_at_its_first_second(store: LimitStore, redis: MultiplexedRedis) -> None:
    now = await redis_now(redis)
    one = Customer(now=now, tenant=Limits(tokens_per_day=100, tokens_per_month=100))
    # The day that the ask calls next and the month that it calls current begin in the same second.
    one.day = PeriodBounds(now - DAY_S, now - 1, now + 2, now + DAY_S)
    one.month = PeriodBounds(now - DAY_S, now + 2, now + DAY_S, now + 2 * DAY_S)
    await begin(store, one.tenant_id, one.spent())
    await admitted(store, one.ask(100))

    wait_s = (await refused(store, one.ask(100))).retry_after_s
    assert wait_s <= 3
    await asyncio.sleep(wait_s + 0.01)  # timers may go off a little early
    await admitted(store, one.ask(100))


async def test_a_settlement_counts_in_the_period_of_admission(
    store: LimitStore, redis: MultiplexedRedis
) -> None:
    now = await redis_now(redis)
    one = Customer(now=now, tenant=Limits(tokens_per_day=100))
    await begin(store, one.tenant_id, one.spent())
    ask = one.ask(80)
    await admitted(store, ask)
    # The next day, as far as the next ask can tell.
    today = one.day
    one.day = PeriodBounds(today.previous, today.current, now - 1, today.end)

    await store.settle(one.tenant_id, ask.request_id, 70)

    assert (await remaining(store, one))["tenant", LimitKind.TOKENS_PER_DAY] == 100
    one.day = today
    assert (await remaining(store, one))["tenant", LimitKind.TOKENS_PER_DAY] == 30


@pytest.mark.parametrize("known", [True, False])
async def test_periods_that_do_not_hold_now_are_said_with_the_time(
    store: LimitStore, redis: MultiplexedRedis, *, known: bool
) -> None:
    """Also where nothing is counted yet: a recount for other days would count nothing into this one."""
    one = Customer(tenant=Limits(tokens_per_day=100))
    if known:
        await begin(store, one.tenant_id, one.spent())
    one.day = PeriodBounds(0, DAY_S, 2 * DAY_S, 3 * DAY_S)

    with pytest.raises(OutsidePeriods) as outside:
        await store.take(one.ask(1))
    assert abs(outside.value.now_s - await redis_now(redis)) < 10
    assert store.now_s == pytest.approx(outside.value.now_s, abs=5)


async def test_every_sum_and_rate_ends_by_itself(store: LimitStore, redis: MultiplexedRedis) -> None:
    one = Customer(tenant=Limits(10, 100, 10, 100, 100), key=Limits(10, 100, 10, 100, 100))
    await begin(store, one.tenant_id, ())
    await admitted(store, one.ask(50))

    lives = {
        key.rsplit(b"}:")[1].split(b":")[0]: await redis.call("PTTL", key) for key in await memory(redis, one)
    }
    assert lives.pop(b"epoch") == lives.pop(b"open") == lives.pop(b"running") == -1
    assert lives == {
        b"r": pytest.approx(306_000, abs=2000),
        b"w": pytest.approx(330_000, abs=2000),
        b"d": pytest.approx((3 * DAY_S - 3600) * 1000, abs=10_000),
        b"m": pytest.approx(30 * DAY_S * 1000, abs=10_000),
    }


# Leases


async def test_what_a_dead_process_held_comes_back(
    store: LimitStore, redis: MultiplexedRedis, leases: LimitLeases
) -> None:
    one = await customer(store, tenant=Limits(None, 100, 1, 100, 100), key=Limits(None, 100, 1, 100, 100))
    await admitted(LimitStore(redis, process_id="dead"), one.ask(100))
    await refused(store, one.ask(100))
    await age_reservations(redis, one, 6)

    assert await leases.sweep(one.tenant_id, frozenset({"alive"})) == 1
    await admitted(store, one.ask(100))


async def test_what_a_live_process_holds_stays(
    store: LimitStore, redis: MultiplexedRedis, leases: LimitLeases
) -> None:
    one = await customer(store, tenant=Limits(concurrency=1))
    await admitted(store, one.ask())
    await age_reservations(redis, one, 60)

    assert await leases.sweep(one.tenant_id, frozenset({"alive"})) == 0
    await refused(store, one.ask())


async def test_a_process_gets_time_to_report_that_it_lives(store: LimitStore, leases: LimitLeases) -> None:
    one = await customer(store, tenant=Limits(concurrency=1))
    await admitted(store, one.ask())

    assert await leases.sweep(one.tenant_id, NOBODY) == 0


async def test_a_second_sweep_gives_nothing_back(
    store: LimitStore, redis: MultiplexedRedis, leases: LimitLeases
) -> None:
    one = await customer(store, tenant=Limits(tokens_per_day=100))
    await admitted(store, one.ask(50))
    await age_reservations(redis, one, 6)
    await leases.sweep(one.tenant_id, NOBODY)
    before = await memory(redis, one)

    assert await leases.sweep(one.tenant_id, NOBODY) == 0
    assert await memory(redis, one) == before


async def test_the_settlement_after_a_sweep_books_the_fact_once(
    store: LimitStore, redis: MultiplexedRedis, leases: LimitLeases
) -> None:
    one = await customer(store, tenant=Limits(None, None, 5, 100, 100))
    ask = one.ask(50)
    await admitted(store, ask)
    await age_reservations(redis, one, 6)
    await leases.sweep(one.tenant_id, NOBODY)

    assert await store.settle(one.tenant_id, ask.request_id, 30)
    assert not await store.settle(one.tenant_id, ask.request_id, 30)
    assert list((await remaining(store, one)).values()) == [5, 70, 70]


async def test_a_reservation_nobody_settles_is_forgotten_after_two_days(
    store: LimitStore, redis: MultiplexedRedis, leases: LimitLeases
) -> None:
    one = await customer(store, tenant=Limits(concurrency=1))
    ask = one.ask()
    await admitted(store, ask)
    await age_reservations(redis, one, 2 * DAY_S + 1)

    assert await leases.sweep(one.tenant_id, frozenset({"alive"})) == 1
    assert not await store.settle(one.tenant_id, ask.request_id, 0)
    await admitted(store, one.ask())


# Memory


async def test_a_redis_without_memory_grants_nothing(store: LimitStore, redis: MultiplexedRedis) -> None:
    one = await customer(store, tenant=Limits(tokens_per_day=100))
    await redis.call("FLUSHDB")

    assert await store.take(one.ask(1)) == Unknown()
    assert await memory(redis, one) == {}


async def test_after_what_is_spent_was_told_the_count_goes_on(
    store: LimitStore, redis: MultiplexedRedis
) -> None:
    one = await customer(store, tenant=Limits(tokens_per_day=100), key=Limits(tokens_per_month=90))
    await redis.call("FLUSHDB")
    await begin(store, one.tenant_id, one.spent(60))

    assert [state.remaining for state in (await admitted(store, one.ask(10))).states] == [30, 20]


async def test_the_first_to_tell_what_is_spent_is_believed(store: LimitStore) -> None:
    one = await customer(store, tenant=Limits(tokens_per_day=100), spent=60)

    assert not await begin(store, one.tenant_id, one.spent(0))
    assert (await remaining(store, one))["tenant", LimitKind.TOKENS_PER_DAY] == 40


async def test_what_runs_is_counted_on_top_when_all_is_counted_anew(
    store: LimitStore, redis: MultiplexedRedis
) -> None:
    one = await customer(store, tenant=Limits(tokens_per_day=100, tokens_per_month=100), spent=60)
    ask = one.ask(20)
    await admitted(store, ask)
    await redis.call("DEL", f"nng:{{t:{one.tenant_id}}}:epoch")
    await begin(store, one.tenant_id, one.spent(30))

    assert list((await remaining(store, one)).values()) == [50, 50]
    await store.settle(one.tenant_id, ask.request_id, 5)
    assert list((await remaining(store, one)).values()) == [65, 65]


async def test_a_tenant_may_have_thousands_of_keys(store: LimitStore) -> None:
    one = Customer(tenant=Limits(tokens_per_day=100))
    spent = [Spent(LimitKind.TOKENS_PER_DAY, 0, DAY_S, KeyId(uuid4()), 1) for _ in range(5000)]

    assert await begin(store, one.tenant_id, [*spent, *one.spent(60)])
    assert (await remaining(store, one))["tenant", LimitKind.TOKENS_PER_DAY] == 40


async def test_tenants_that_may_hold_something_are_listed(store: LimitStore, leases: LimitLeases) -> None:
    made = {(await customer(store)).tenant_id for _ in range(3)}

    assert set(await leases.tenants()) == made
