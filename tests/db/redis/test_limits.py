"""Limits on a real server: each alone, all together, and never more than there is."""

import asyncio
import time
from typing import Final
from uuid import uuid4

import pytest

from db.redis.limit_recounts import LimitLeases
from db.redis.limits import LimitStore
from db.redis.multiplex import MultiplexedRedis
from domain.limits import LimitKind, Limits, Refused, Spent, Unknown
from domain.values import KeyId
from tests.support.limits import DAY_S, Customer, admitted, begin, customer, memory, refused, remaining

# One token or request of a limit this small comes back after so long that no test sees it.
LARGE: Final = 10**9


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
    assert tuple(refusal.states) == (refusal.refused,)
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
    await redis.call("HDEL", f"nng:{{t:{one.tenant_id}}}:now", "epoch")
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
