"""The limits of one process: what Redis forgot is counted anew, and no settlement is lost."""

import asyncio
from typing import Final
from uuid import UUID, uuid4

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from uuid_utils.compat import uuid7

from app.gateway.limiter import AdoptedRecords
from db.redis.limits import LimitStore
from db.redis.multiplex import RedisAway
from db.tasks import end
from domain.errors import LimitExceeded, Unavailable
from domain.limits import Limits
from domain.values import Principal, RequestId
from tests.support.limiters import EACH, NOWHERE, Limiters, Process, handed_over, record_of
from tests.support.limits import Customer
from tests.support.principals import principal
from tests.support.stoppable import StoppableValkey

A_DAY: Final = 1000
WITHIN_S: Final = 10.0


@pytest.fixture
async def one(limiters: Limiters) -> Process:
    return await limiters.process()


def limited(*, tenant_id: UUID | None = None) -> Principal:
    return principal(tenant_limits=Limits(tokens_per_day=A_DAY), tenant_id=tenant_id)


# -- who has no limits


async def test_a_tenant_without_limits_takes_nothing(limiters: Limiters, one: Process) -> None:
    who = principal()

    assert await one.limiter.take(who, RequestId(uuid7()), 5) == ()
    assert await limiters.patient.keys("nng:*") == [f"nng:{{t:{who.tenant_id}}}:uncounted".encode()]


async def test_a_tenant_without_limits_concerns_nobody_after_its_first_request(one: Process) -> None:
    who = principal()
    assert one.limiter.concerns(who)
    await one.take(who)

    assert not one.limiter.concerns(who)
    assert one.limiter.concerns(limited(tenant_id=uuid4()))


@pytest.mark.parametrize("of_key", [False, True])
async def test_a_limit_set_later_counts_what_was_spent_without_it(
    limiters: Limiters, one: Process, *, of_key: bool
) -> None:
    whole = Limits(tokens_per_day=A_DAY)
    free = principal()
    who = principal(
        tenant_id=free.tenant_id,
        key_id=free.key_id,
        tenant_limits=None if of_key else whole,
        key_limits=whole if of_key else None,
    )
    assert await one.left(who) == A_DAY
    await one.take(free)
    await limiters.rows.insert_batch([record_of(free)])

    assert await one.left(who) == A_DAY - EACH


async def test_a_key_without_limits_does_not_have_those_of_others_recounted(
    limiters: Limiters, one: Process
) -> None:
    free = principal()
    who = principal(tenant_id=free.tenant_id, key_limits=Limits(tokens_per_day=A_DAY))
    await one.take(free)
    await one.take(who)
    reads = limiters.reads
    for _ in range(3):
        await one.take(free)
        await one.take(who)

    assert limiters.reads == reads


async def test_a_limit_of_the_tenant_counts_keys_that_had_none(limiters: Limiters, one: Process) -> None:
    free = principal()
    await one.take(principal(tenant_id=free.tenant_id, key_limits=Limits(concurrency=9)))
    await one.take(free)
    await one.take(principal(tenant_id=free.tenant_id, key_limits=Limits(concurrency=9)))
    await limiters.rows.insert_batch([record_of(free)])

    assert await one.left(limited(tenant_id=free.tenant_id)) == A_DAY - EACH


@pytest.mark.parametrize("of_key", [False, True])
async def test_what_was_spent_without_a_limit_is_counted_also_after_a_restart(
    limiters: Limiters, one: Process, *, of_key: bool
) -> None:
    """Another key has a limit, so there are counters, which lack what this key does."""
    free = principal()
    other = principal(tenant_id=free.tenant_id, key_limits=Limits(concurrency=9))
    await one.take(free)
    await one.take(other)
    await limiters.rows.insert_batch([record_of(free)])
    await one.stop()
    two = await limiters.process()
    whole = Limits(tokens_per_day=A_DAY)
    who = principal(
        tenant_id=free.tenant_id,
        key_id=free.key_id,
        tenant_limits=None if of_key else whole,
        key_limits=whole if of_key else None,
    )

    assert await two.left(who) == A_DAY - EACH


# -- counting anew


async def test_what_redis_does_not_know_is_read_from_the_ledger(limiters: Limiters, one: Process) -> None:
    who = limited()
    await limiters.rows.insert_batch([record_of(who), record_of(who), record_of(limited())])

    assert await one.left(who) == A_DAY - 2 * EACH


async def test_records_that_postgres_may_not_have_count_too(limiters: Limiters, one: Process) -> None:
    who = limited()
    await limiters.rows.insert_batch([record_of(who)])
    one.unconfirmed += [record_of(who), record_of(limited())]

    assert await one.left(who) == A_DAY - 2 * EACH


async def test_requests_that_find_it_unknown_at_once_share_one_count(
    limiters: Limiters, one: Process
) -> None:
    who = limited()
    await one.take(who)
    alone = limiters.reads
    await limiters.patient.flushdb()
    limiters.reads = 0
    limiters.may_read.clear()
    asking = [asyncio.create_task(one.take(who)) for _ in range(20)]
    async with asyncio.timeout(WITHIN_S):
        while not limiters.reads:  # noqa: ASYNC110 - the limiter has no event of ours
            await asyncio.sleep(0)
    limiters.may_read.set()
    await asyncio.gather(*asking)

    assert limiters.reads == alone


async def test_who_leaves_does_not_end_the_count_of_the_others(limiters: Limiters, one: Process) -> None:
    who = limited()
    limiters.may_read.clear()
    first, second = (asyncio.create_task(one.take(who)) for _ in range(2))
    async with asyncio.timeout(WITHIN_S):
        while not limiters.reads:  # noqa: ASYNC110 - the limiter has no event of ours
            await asyncio.sleep(0)
    await end(first)
    limiters.may_read.set()

    await second


async def test_without_the_ledger_nothing_is_granted(limiters: Limiters, one: Process) -> None:
    limiters.broken = True
    with pytest.raises(Unavailable):
        await one.take(limited())


async def test_another_time_zone_has_its_days_counted(limiters: Limiters, one: Process) -> None:
    who = limited()
    await one.take(who)
    reads = limiters.reads
    moved = principal(tenant_id=who.tenant_id, tenant_limits=who.tenant_limits, time_zone="Asia/Tokyo")
    await one.take(moved)
    assert limiters.reads > reads

    reads = limiters.reads
    await one.take(moved)
    assert limiters.reads == reads


# -- settling


async def test_a_refused_request_changes_nothing(one: Process) -> None:
    who = limited()
    await one.take(who, A_DAY - 10)
    with pytest.raises(LimitExceeded):
        await one.take(who, 11)

    assert await one.left(who) == 10


async def test_a_settled_request_is_charged_what_it_took(one: Process) -> None:
    who = limited()
    request_id = await one.take(who, 500)
    assert who.tenant_id is not None
    one.limiter.settle(who.tenant_id, request_id, 7)
    one.limiter.settle(who.tenant_id, request_id, 9)

    assert await one.limiter.settle_waiting()
    assert await one.left(who) == A_DAY - 7


async def test_more_than_one_batch_is_settled(one: Process) -> None:
    who = principal(tenant_limits=Limits(concurrency=600))
    assert who.tenant_id is not None
    for request_id in await asyncio.gather(*(one.take(who) for _ in range(600))):
        one.limiter.settle(who.tenant_id, request_id, 1)
    assert await one.limiter.settle_waiting()

    (state,) = await one.limiter.take(who, RequestId(uuid7()), 0)
    assert state.remaining == 599


async def test_adopted_records_are_settled_once_there_is_a_limiter(limiters: Limiters, one: Process) -> None:
    dead, who = await limiters.process(), limited()
    requests = [await dead.take(who, 100) for _ in range(2)]
    await dead.stop()
    adopted = AdoptedRecords()
    adopted.settle([record_of(who, requests[0])])
    adopted.hand_to(one.limiter)
    adopted.settle([record_of(who, requests[1])])
    await one.limiter.settle_waiting()

    assert await one.left(who) == A_DAY - 2 * EACH


# -- Redis away


@pytest.fixture
async def alone(outage: Limiters) -> Process:
    return await outage.process()


async def test_a_reservation_nobody_heard_of_and_nobody_wants_is_given_back(
    outage: Limiters, alone: Process, own_valkey: StoppableValkey
) -> None:
    who = limited()
    await alone.take(who)
    outage.broken = True
    with own_valkey.silent(), pytest.raises(Unavailable):
        await alone.take(who, 100)
    outage.broken = False
    await handed_over(alone)

    assert await alone.left(who) == A_DAY


async def test_a_reservation_that_nobody_waits_for_any_more_is_not_made(
    outage: Limiters, alone: Process, own_valkey: StoppableValkey
) -> None:
    who = limited()
    await alone.take(who)
    store = LimitStore(alone.redis, process_id="late")
    ask = Customer(tenant=who.tenant_limits).ask(100)
    ask = msgspec.structs.replace(ask, tenant_id=who.tenant_id)
    await store.take(ask)
    await store.settle(ask.tenant_id, ask.request_id, 0)
    with own_valkey.silent(), pytest.raises(RedisAway):
        await store.take(ask)
    open_key = f"nng:{{t:{who.tenant_id}}}:open"
    for _ in range(5):
        # The server reads what stood in its sockets before it takes new ones.
        assert not await outage.patient.hexists(open_key, ask.request_id.bytes)


async def test_a_moment_of_silence_is_waited_for(
    outage: Limiters, alone: Process, own_valkey: StoppableValkey
) -> None:
    who = limited()
    await alone.take(who)
    reads = outage.reads
    with own_valkey.silent():
        asking = asyncio.create_task(alone.take(who, 100))
        # Longer than one answer may take, and less than silence may last.
        await asyncio.sleep(1.5 * outage.timeout_s)
    await asking

    assert not alone.limiter.shared_tenants
    assert outage.reads == reads


async def test_a_process_that_never_saw_redis_grants_nothing(engine: AsyncEngine) -> None:
    async with Limiters(engine, NOWHERE) as limiters:
        process = Process(limiters, "a")
        with pytest.raises(Unavailable):
            await process.take(limited())

        assert await process.limiter.settle_waiting()
        await process.stop()


async def test_a_settlement_cut_short_is_repeated(alone: Process, own_valkey: StoppableValkey) -> None:
    who = limited()
    request_id = await alone.take(who, 100)
    assert who.tenant_id is not None
    with own_valkey.gone():
        alone.limiter.settle(who.tenant_id, request_id, 7)
        settling = asyncio.create_task(alone.limiter.settle_waiting())
        await asyncio.sleep(0)
        await end(settling)

        assert not await alone.limiter.settle_waiting()


async def test_settlements_wait_for_redis(alone: Process, own_valkey: StoppableValkey) -> None:
    who = limited()
    request_id = await alone.take(who, 100)
    assert who.tenant_id is not None
    keeping = asyncio.create_task(alone.limiter.keep_settling())
    try:
        with own_valkey.silent():
            alone.unconfirmed.append(record_of(who, request_id))
            alone.limiter.settle(who.tenant_id, request_id, EACH)
            assert not await alone.limiter.settle_waiting()
        async with asyncio.timeout(WITHIN_S):
            while await alone.left(who) != A_DAY - EACH:  # noqa: ASYNC110 - nor has it one here
                await asyncio.sleep(0.02)
    finally:
        await end(keeping)
