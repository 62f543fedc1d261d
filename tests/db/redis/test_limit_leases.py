"""What dead processes held comes back, and what live ones hold stays."""

from typing import Final

from db.redis.limit_recounts import LimitLeases
from db.redis.limits import LimitStore
from db.redis.multiplex import MultiplexedRedis
from domain.limits import Limits
from tests.support.limits import DAY_S, admitted, age_reservations, customer, memory, refused, remaining

NOBODY: Final = frozenset[str]()


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
