"""Days and months on a real server: which one counts, by whose clock, and for how long its sums are kept."""

import asyncio
import time

import pytest

from db.redis.limits import LimitStore, OutsidePeriods
from db.redis.multiplex import MultiplexedRedis
from domain.limits import LimitKind, Limits, PeriodBounds, Spent
from tests.support.limits import (
    DAY_S,
    STANDING,
    Customer,
    admitted,
    begin,
    bounds,
    memory,
    refused,
    remaining,
)


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
    assert lives.pop(b"open") == lives.pop(b"now") == -1
    assert lives == {
        b"d": pytest.approx((3 * DAY_S - 3600) * 1000, abs=10_000),
        b"m": pytest.approx(30 * DAY_S * 1000, abs=10_000),
    }


async def test_whoever_was_idle_for_a_day_takes_no_room_the_day_after(
    store: LimitStore, redis: MultiplexedRedis
) -> None:
    one = Customer(tenant=Limits(tokens_per_day=100))
    await begin(store, one.tenant_id, ())
    long_ago_us = (time.time() - DAY_S - 60) * 1e6
    idle, busy = (
        STANDING.pack(9, long_ago_us, 9, long_ago_us, 0),
        STANDING.pack(9, long_ago_us, 9, long_ago_us, 1),
    )
    standings = f"nng:{{t:{one.tenant_id}}}:now"
    await redis.call("HSET", standings, "idle", idle, "busy", busy)

    await admitted(store, one.ask(1))

    assert await redis.call("HMGET", standings, "idle", "busy") == [None, busy]
