"""The limits of one process: what Redis forgot is counted anew, and no settlement is lost."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid4

import msgspec
import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine
from uuid_utils.compat import uuid7

from app.gateway.limiter import AdoptedRecords, Limiter
from db.redis.limits import LimitStore
from db.redis.multiplex import MultiplexedRedis
from db.tasks import end
from db.usage import UsageRows
from domain.errors import LimitExceeded, Unavailable
from domain.limits import Limits
from domain.usage import UsageRecord
from domain.values import KeyId, Principal, RequestId, TenantId
from tests.support.ledger_records import admission, settlement
from tests.support.principals import principal
from tests.support.stoppable import StoppableValkey, stoppable_valkey

A_DAY: Final = 1000
WITHIN_S: Final = 10.0
EACH: Final = 30
"""Tokens of one record."""


class World:
    """A limiter over real stores, whose reads of the ledger are counted and can be held up."""

    def __init__(self, engine: AsyncEngine, redis: MultiplexedRedis) -> None:
        self.redis = redis
        self.rows = UsageRows(engine)
        self.unconfirmed: list[UsageRecord] = []
        self.reads = 0
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.broken = False
        self.limiter = self.another()

    def another(self) -> Limiter:
        """Return the limiter of a further process."""
        return Limiter(
            LimitStore(self.redis, process_id=str(uuid4())),
            spent=self._spent,
            unconfirmed=lambda: self.unconfirmed,
        )

    async def _spent(self, tenant_id: TenantId, since: datetime) -> Mapping[KeyId, int]:
        self.reads += 1
        await self.may_read.wait()
        if self.broken:
            raise OSError("Postgres is away")
        return await self.rows.spent(tenant_id, since=since)


@pytest.fixture
async def world(engine: AsyncEngine, redis_url: str) -> AsyncIterator[World]:
    redis = MultiplexedRedis(SecretStr(redis_url), timeout_s=5)
    yield World(engine, redis)
    await redis.aclose()


def limited(*, tenant_id: UUID | None = None) -> Principal:
    return principal(tenant_limits=Limits(tokens_per_day=A_DAY), tenant_id=tenant_id)


def record(of: Principal, request_id: RequestId | None = None) -> UsageRecord:
    assert of.tenant_id is not None
    asked = admission(datetime.now(UTC), tenant=of.tenant_id, key=of.key_id)
    if request_id is not None:
        asked = msgspec.structs.replace(asked, request_id=request_id)
    return UsageRecord(asked, settlement())


async def take(limiter: Limiter, who: Principal, tokens: int = 0) -> RequestId:
    request_id = RequestId(uuid7())
    await limiter.take(who, request_id, tokens)
    return request_id


async def left(limiter: Limiter, who: Principal) -> int:
    """Return what is left of the one limit, changing nothing."""
    with pytest.raises(LimitExceeded) as refused:
        await limiter.take(who, RequestId(uuid7()), 10**9)
    (state,) = refused.value.refused.states
    return state.remaining


async def keys(world: World) -> object:
    return await world.redis.call("KEYS", "nng:*")


# -- who has no limits


async def test_a_tenant_without_limits_takes_nothing(world: World) -> None:
    who = principal()

    assert await world.limiter.take(who, RequestId(uuid7()), 5) == ()
    assert await keys(world) == []


async def test_a_tenant_without_limits_concerns_nobody_after_its_first_request(world: World) -> None:
    who = principal()
    assert world.limiter.concerns(who)
    await take(world.limiter, who)

    assert not world.limiter.concerns(who)
    assert world.limiter.concerns(limited(tenant_id=uuid4()))


@pytest.mark.parametrize("of_key", [False, True])
async def test_a_limit_set_later_counts_what_was_spent_without_it(world: World, *, of_key: bool) -> None:
    whole = Limits(tokens_per_day=A_DAY)
    free = principal()
    who = principal(
        tenant_id=free.tenant_id,
        key_id=free.key_id,
        tenant_limits=None if of_key else whole,
        key_limits=whole if of_key else None,
    )
    assert await left(world.limiter, who) == A_DAY
    await take(world.limiter, free)
    await world.rows.insert_batch([record(free)])

    assert await left(world.limiter, who) == A_DAY - EACH


async def test_a_key_without_limits_does_not_have_those_of_others_recounted(world: World) -> None:
    free = principal()
    who = principal(tenant_id=free.tenant_id, key_limits=Limits(tokens_per_day=A_DAY))
    await take(world.limiter, free)
    await take(world.limiter, who)
    reads = world.reads
    for _ in range(3):
        await take(world.limiter, free)
        await take(world.limiter, who)

    assert world.reads == reads


async def test_a_limit_of_the_tenant_counts_keys_that_had_none(world: World) -> None:
    free = principal()
    await take(world.limiter, principal(tenant_id=free.tenant_id, key_limits=Limits(concurrency=9)))
    await take(world.limiter, free)
    await take(world.limiter, principal(tenant_id=free.tenant_id, key_limits=Limits(concurrency=9)))
    await world.rows.insert_batch([record(free)])

    assert await left(world.limiter, limited(tenant_id=free.tenant_id)) == A_DAY - EACH


# -- counting anew


async def test_what_redis_does_not_know_is_read_from_the_ledger(world: World) -> None:
    who = limited()
    await world.rows.insert_batch([record(who), record(who), record(limited())])

    assert await left(world.limiter, who) == A_DAY - 2 * EACH


async def test_records_that_postgres_may_not_have_count_too(world: World) -> None:
    who = limited()
    await world.rows.insert_batch([record(who)])
    world.unconfirmed += [record(who), record(limited())]

    assert await left(world.limiter, who) == A_DAY - 2 * EACH


async def test_requests_that_find_it_unknown_at_once_share_one_count(world: World) -> None:
    who = limited()
    await take(world.limiter, who)
    alone = world.reads
    await world.redis.call("FLUSHDB")
    world.reads = 0
    world.may_read.clear()
    asking = [asyncio.create_task(take(world.limiter, who)) for _ in range(20)]
    async with asyncio.timeout(WITHIN_S):
        while not world.reads:  # noqa: ASYNC110 - the limiter has no event of ours
            await asyncio.sleep(0)
    world.may_read.set()
    await asyncio.gather(*asking)

    assert world.reads == alone


async def test_who_leaves_does_not_end_the_count_of_the_others(world: World) -> None:
    who = limited()
    world.may_read.clear()
    first, second = (asyncio.create_task(take(world.limiter, who)) for _ in range(2))
    async with asyncio.timeout(WITHIN_S):
        while not world.reads:  # noqa: ASYNC110 - the limiter has no event of ours
            await asyncio.sleep(0)
    await end(first)
    world.may_read.set()

    await second


async def test_without_the_ledger_nothing_is_granted(world: World) -> None:
    world.broken = True
    with pytest.raises(Unavailable):
        await take(world.limiter, limited())


async def test_another_time_zone_has_its_days_counted(world: World) -> None:
    who = limited()
    await take(world.limiter, who)
    reads = world.reads
    moved = principal(tenant_id=who.tenant_id, tenant_limits=who.tenant_limits, time_zone="Asia/Tokyo")
    await take(world.limiter, moved)
    assert world.reads > reads

    reads = world.reads
    await take(world.limiter, moved)
    assert world.reads == reads


# -- settling


async def test_a_refused_request_changes_nothing(world: World) -> None:
    who = limited()
    await take(world.limiter, who, A_DAY - 10)
    with pytest.raises(LimitExceeded):
        await take(world.limiter, who, 11)

    assert await left(world.limiter, who) == 10


async def test_a_settled_request_is_charged_what_it_took(world: World) -> None:
    who = limited()
    request_id = await take(world.limiter, who, 500)
    assert who.tenant_id is not None
    world.limiter.settle(who.tenant_id, request_id, 7)
    world.limiter.settle(who.tenant_id, request_id, 9)

    assert await world.limiter.settle_waiting()
    assert await left(world.limiter, who) == A_DAY - 7


async def test_more_than_one_batch_is_settled(world: World) -> None:
    who = principal(tenant_limits=Limits(concurrency=600))
    assert who.tenant_id is not None
    for request_id in await asyncio.gather(*(take(world.limiter, who) for _ in range(600))):
        world.limiter.settle(who.tenant_id, request_id, 1)
    assert await world.limiter.settle_waiting()

    (state,) = await world.limiter.take(who, RequestId(uuid7()), 0)
    assert state.remaining == 599


async def test_adopted_records_are_settled_once_there_is_a_limiter(world: World) -> None:
    dead, who = world.another(), limited()
    requests = [await take(dead, who, 100) for _ in range(2)]
    adopted = AdoptedRecords()
    adopted.settle([record(who, requests[0])])
    adopted.hand_to(world.limiter)
    adopted.settle([record(who, requests[1])])
    await world.limiter.settle_waiting()

    assert await left(world.limiter, who) == A_DAY - 2 * EACH


# -- Redis away


@pytest.fixture(scope="module")
def own_valkey() -> Iterator[StoppableValkey]:
    with stoppable_valkey() as valkey:
        yield valkey


@pytest.fixture
async def hasty(engine: AsyncEngine, own_valkey: StoppableValkey) -> AsyncIterator[World]:
    own_valkey.start()
    redis = MultiplexedRedis(SecretStr(own_valkey.url), timeout_s=0.3)
    yield World(engine, redis)
    await redis.aclose()


async def handed_over(limiter: Limiter) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not await limiter.settle_waiting():  # noqa: ASYNC110 - the limiter has no event of ours
            await asyncio.sleep(0.02)


async def test_while_redis_is_away_nothing_is_granted(hasty: World, own_valkey: StoppableValkey) -> None:
    who = limited()
    await take(hasty.limiter, who)
    with own_valkey.gone(), pytest.raises(Unavailable):
        await take(hasty.limiter, who)


async def test_a_reservation_nobody_heard_of_is_given_back(hasty: World, own_valkey: StoppableValkey) -> None:
    who = limited()
    await take(hasty.limiter, who)
    with own_valkey.silent(), pytest.raises(Unavailable):
        await take(hasty.limiter, who, 100)
    await handed_over(hasty.limiter)

    assert await left(hasty.limiter, who) == A_DAY


async def test_what_never_reached_redis_leaves_nothing_to_settle(engine: AsyncEngine) -> None:
    redis = MultiplexedRedis(SecretStr("redis://127.0.0.1:1"), timeout_s=1)
    limiter = World(engine, redis).limiter
    with pytest.raises(Unavailable):
        await take(limiter, limited())

    assert await limiter.settle_waiting()
    await redis.aclose()


async def test_a_settlement_cut_short_is_repeated(hasty: World, own_valkey: StoppableValkey) -> None:
    who = limited()
    request_id = await take(hasty.limiter, who, 100)
    assert who.tenant_id is not None
    with own_valkey.gone():
        hasty.limiter.settle(who.tenant_id, request_id, 7)
        settling = asyncio.create_task(hasty.limiter.settle_waiting())
        await asyncio.sleep(0)
        await end(settling)

        assert not await hasty.limiter.settle_waiting()


async def test_settlements_wait_for_redis(hasty: World, own_valkey: StoppableValkey) -> None:
    who = limited()
    request_id = await take(hasty.limiter, who, 100)
    assert who.tenant_id is not None
    keeping = asyncio.create_task(hasty.limiter.keep_settling())
    try:
        with own_valkey.silent():
            hasty.limiter.settle(who.tenant_id, request_id, 7)
            assert not await hasty.limiter.settle_waiting()
        async with asyncio.timeout(WITHIN_S):
            while not await _is_left(hasty, who, A_DAY - 7):  # noqa: ASYNC110 - nor has it one here
                await asyncio.sleep(0.02)
    finally:
        await end(keeping)


async def _is_left(world: World, who: Principal, expected: int) -> bool:
    try:
        return await left(world.limiter, who) == expected
    except Unavailable:
        return False
