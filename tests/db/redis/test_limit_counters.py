"""Reading the counters of limits as the script wrote them."""

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from db.redis.connection import connect_patient
from db.redis.limit_counters import TENANT, LimitCounters, TenantCounters
from db.redis.limit_recounts import LimitLeases
from db.redis.limits import LimitStore
from db.redis.multiplex import MultiplexedRedis
from domain.limits import Limits
from tests.support.limits import Customer, admitted, age_reservations, begin

LARGE = 10**13


@pytest.fixture
async def scripts(redis_url: str) -> AsyncIterator[MultiplexedRedis]:
    scripts = MultiplexedRedis(SecretStr(redis_url), timeout_s=5)
    yield scripts
    await scripts.aclose()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_patient(SecretStr(redis_url)) as client:
        yield client


@pytest.fixture
def store(scripts: MultiplexedRedis) -> LimitStore:
    return LimitStore(scripts, process_id="alive")


async def read(redis: Redis, of: Customer) -> TenantCounters:
    return await LimitCounters(redis).of(of.tenant_id, day=of.day.current, month=of.month.current)


async def test_a_tenant_that_redis_does_not_know_has_no_counters(redis: Redis) -> None:
    found = await read(redis, Customer())

    assert (found.complete, found.day, found.month, found.running, found.held) == (False, {}, {}, {}, ())


async def test_sums_reservations_and_running_requests_are_read_together(
    store: LimitStore, redis: Redis
) -> None:
    of = Customer(tenant=Limits(tokens_per_day=LARGE))
    assert await begin(store, of.tenant_id, of.spent(2**40))
    ask = of.ask(7)
    await admitted(store, ask)
    found = await read(redis, of)

    assert found.complete
    assert found.day == found.month == {TENANT: 2**40 + 7, of.key_id: 2**40 + 7}
    assert found.running == {TENANT: 1, of.key_id: 1}
    (held,) = found.held
    assert (held.request_id, held.key_id, held.process, held.tokens) == (
        ask.request_id,
        of.key_id,
        "alive",
        7,
    )
    assert (held.day, held.month, held.swept) == (of.day.current, of.month.current, False)
    assert abs(found.now - held.at) <= 2
    assert await LimitCounters(redis).tenants() == (of.tenant_id,)


async def test_a_reservation_that_was_given_back_is_told_apart(
    store: LimitStore, redis: Redis, scripts: MultiplexedRedis
) -> None:
    of = Customer(tenant=Limits(tokens_per_day=LARGE))
    assert await begin(store, of.tenant_id, of.spent())
    await admitted(store, of.ask(7))
    await age_reservations(scripts, of, 60)
    await LimitLeases(scripts).sweep(of.tenant_id, frozenset())
    found = await read(redis, of)

    assert [held.swept for held in found.held] == [True]
    assert (found.running, found.day[TENANT]) == ({}, 0)


async def test_a_reading_changes_nothing(store: LimitStore, redis: Redis) -> None:
    of = Customer(tenant=Limits(tokens_per_day=LARGE))
    assert await begin(store, of.tenant_id, of.spent())
    await admitted(store, of.ask(7))
    before = {key: await redis.dump(key) for key in sorted(await redis.keys("*"))}
    await read(redis, of)

    assert {key: await redis.dump(key) for key in sorted(await redis.keys("*"))} == before
