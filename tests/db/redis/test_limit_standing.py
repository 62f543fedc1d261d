"""How limits stand, read beside the ones who count: the same numbers, and nothing changed."""

from uuid import uuid4

import pytest
from pydantic import SecretStr

from db.redis.limit_recounts import LimitLeases
from db.redis.limit_standing import LimitStanding
from db.redis.limits import LimitStore
from db.redis.multiplex import MultiplexedRedis, RedisAway
from domain.limits import LimitKind, Limits
from domain.standing import LimitUse
from domain.values import KeyId
from tests.support.limits import DAY_S, Customer, admitted, age_reservations, begin, bounds

ALL = Limits(
    requests_per_minute=4,  # rates this low drain so slowly that no test sees it
    tokens_per_minute=4000,
    concurrency=10,
    tokens_per_day=2_000_000,
    tokens_per_month=3_000_000,
)
QUOTAS = (LimitKind.TOKENS_PER_DAY, LimitKind.TOKENS_PER_MONTH)


async def uses(redis: MultiplexedRedis, of: Customer) -> dict[tuple[str, LimitKind], LimitUse]:
    found = await LimitStanding(redis).read(
        of.tenant_id, of.key_id, tenant_limits=of.tenant, key_limits=of.key, day=of.day, month=of.month
    )
    assert found is not None
    return {(use.scope, use.kind): use for use in found}


async def customer(store: LimitStore, *, spent: int = 0) -> Customer:
    made = Customer(tenant=ALL, key=ALL)
    assert await begin(store, made.tenant_id, made.spent(spent))
    return made


async def test_nothing_used_is_nothing_used(redis: MultiplexedRedis, store: LimitStore) -> None:
    found = await uses(redis, await customer(store))

    assert list(found) == [(scope, kind) for scope in ("tenant", "key") for kind in LimitKind]
    assert {(use.used, use.reserved, use.reset_s) for use in found.values()} == {(0, 0, 0.0)}


async def test_only_limits_that_are_set_are_told(redis: MultiplexedRedis, store: LimitStore) -> None:
    one = await customer(store)
    one.tenant, one.key = Limits(concurrency=3), Limits(tokens_per_day=5)

    assert list(await uses(redis, one)) == [
        ("tenant", LimitKind.CONCURRENCY),
        ("key", LimitKind.TOKENS_PER_DAY),
    ]


async def test_what_runs_is_reserved_and_what_ended_is_used(
    redis: MultiplexedRedis, store: LimitStore
) -> None:
    one = await customer(store, spent=100)
    ended, running = uuid4(), uuid4()
    for request in (ended, running):
        await admitted(store, one.ask(1000, request_id=request))
    await store.settle(one.tenant_id, one.ask(request_id=ended).request_id, 30)
    found = await uses(redis, one)

    for scope in ("tenant", "key"):
        for kind in QUOTAS:
            assert (found[scope, kind].used, found[scope, kind].reserved) == (130, 1000)
        tokens, requests = (
            found[scope, LimitKind.TOKENS_PER_MINUTE],
            found[scope, LimitKind.REQUESTS_PER_MINUTE],
        )
        assert 0 < (tokens.reserved or 0) <= 1000
        assert 0 <= tokens.used <= 30
        assert (requests.used, requests.reserved) == (2, 0)
        assert 15 < requests.reset_s <= 30
        assert found[scope, LimitKind.CONCURRENCY].used == 1


async def test_another_key_of_the_tenant_counts_for_the_tenant_alone(
    redis: MultiplexedRedis, store: LimitStore
) -> None:
    one = await customer(store)
    await admitted(store, one.ask(1000))
    one.key_id = KeyId(uuid4())
    found = await uses(redis, one)

    for kind in LimitKind:
        mine, everybodys = found["key", kind], found["tenant", kind]
        assert (mine.used, mine.reserved) == (0, 0)
        assert everybodys.used + (everybodys.reserved or 0) > 0


async def test_what_a_dead_process_held_is_neither(redis: MultiplexedRedis, store: LimitStore) -> None:
    one = await customer(store, spent=5000)
    await admitted(store, one.ask(1000))
    await age_reservations(redis, one, 60)
    await LimitLeases(redis).sweep(one.tenant_id, frozenset())
    found = await uses(redis, one)

    assert {(found["tenant", kind].used, found["tenant", kind].reserved) for kind in QUOTAS} == {(5000, 0)}


async def test_reading_agrees_with_what_the_next_request_is_told(
    redis: MultiplexedRedis, store: LimitStore
) -> None:
    one = await customer(store, spent=7)
    for tokens in (10, 200, 3000):
        await admitted(store, one.ask(tokens))
    found = await uses(redis, one)
    states = (await admitted(store, one.ask(0))).states

    for state in states:
        use = found[state.scope, state.kind]
        if state.kind in QUOTAS:
            assert use.limit - use.used - (use.reserved or 0) == state.remaining


async def test_reading_changes_nothing(redis: MultiplexedRedis, store: LimitStore) -> None:
    one = await customer(store, spent=7)
    await admitted(store, one.ask(1000))

    async def memory() -> dict[bytes, object]:
        keys = await redis.call("KEYS", f"nng:{{t:{one.tenant_id}}}*")
        assert isinstance(keys, list)
        return {key: await redis.call("DUMP", key) for key in sorted(keys)}

    before = await memory()
    await uses(redis, one)

    assert await memory() == before


async def test_too_many_running_requests_to_look_at_are_told_as_one_sum(
    redis: MultiplexedRedis, store: LimitStore
) -> None:
    one = await customer(store)
    await admitted(store, one.ask(1000))
    filler = "for i = 1, 1000 do redis.call('HSET', KEYS[1], 'r' .. i, 'x') end"
    await redis.call("EVAL", filler, 1, f"nng:{{t:{one.tenant_id}}}:open")
    found = await uses(redis, one)

    assert {(found["key", kind].used, found["key", kind].reserved) for kind in QUOTAS} == {(1000, None)}


async def test_counters_that_redis_forgot_are_unknown(redis: MultiplexedRedis, store: LimitStore) -> None:
    one = await customer(store)
    await store.forget(one.tenant_id)

    with pytest.raises(AssertionError):
        await uses(redis, one)


async def test_a_clock_outside_of_the_periods_knows_nothing(
    redis: MultiplexedRedis, store: LimitStore
) -> None:
    one = await customer(store)
    one.day = bounds(10 * DAY_S, DAY_S, since=0)

    with pytest.raises(AssertionError):
        await uses(redis, one)


async def test_a_redis_out_of_reach_is_an_error() -> None:
    away = MultiplexedRedis(SecretStr("redis://127.0.0.1:1"), timeout_s=1)

    with pytest.raises(RedisAway):
        await uses(away, Customer(tenant=ALL, key=ALL))
