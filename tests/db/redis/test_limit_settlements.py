"""What a request took is booked once, and what it did not take comes back."""

import asyncio
from typing import Final

import pytest

from db.redis.limits import LimitStore
from db.redis.multiplex import MultiplexedRedis
from domain.limits import Admitted, LimitKind, Limits
from tests.support.clock import Clock
from tests.support.limits import admitted, customer, memory, refused, remaining

# One token or request of a limit this small comes back after so long that no test sees it.
LARGE: Final = 10**9
SCOPES: Final = ("tenant", "key")


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
    assert kept == {b"now", b"d", b"m"}
