"""Counters made anew: with what every process holds, without anything twice, and never before all have told."""

import asyncio
import random
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import pytest
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from app.gateway.recounts import NotRecounted, Recounts
from db.redis.limit_recounts import LimitRecounts
from db.redis.limits import LimitStore
from db.redis.recount_board import RecountBoard
from domain.errors import LimitExceeded, Unavailable
from domain.limits import Limits
from domain.periods import bounds
from domain.recounts import Declaration
from domain.usage import UsageRecord
from domain.values import KeyId, Principal, RequestId, TenantId
from tests.support.counts import count
from tests.support.limiters import EACH, Limiters, Process, record_of
from tests.support.principals import principal
from tests.support.stoppable import StoppableValkey, stoppable_valkey

A_DAY: Final = 10_000
WITHIN_S: Final = 10.0
STEPS: Final = 60


def limited(**limits: int) -> Principal:
    return principal(tenant_limits=Limits(**(limits or {"tokens_per_day": A_DAY})))


@pytest.fixture
async def world(engine: AsyncEngine, redis_url: str) -> AsyncIterator[Limiters]:
    async with Limiters(engine, redis_url) as world:
        yield world


@pytest.fixture
async def two(world: Limiters) -> tuple[Process, Process]:
    return await world.process(), await world.process()


async def handed_over(*processes: Process) -> None:
    for process in processes:
        async with asyncio.timeout(WITHIN_S):
            while not await process.limiter.settle_waiting():  # noqa: ASYNC110 - the limiter has no event of ours
                await asyncio.sleep(0.02)


async def exact(process: Process, who: Principal) -> int:
    """Return what is left once Redis itself has decided it."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                left = await process.left(who)
            except Unavailable:
                left = -1
            if left >= 0 and not process.limiter.shared_tenants:
                return left
            await asyncio.sleep(0.01)


# -- what others hold


async def test_what_runs_elsewhere_is_counted(world: Limiters, two: tuple[Process, Process]) -> None:
    one, other = two
    who = limited()
    await other.take(who, 700)
    await world.patient.flushdb()

    assert await one.left(who) == A_DAY - 700


async def test_what_ended_elsewhere_and_is_not_in_the_ledger_is_counted(
    world: Limiters, two: tuple[Process, Process]
) -> None:
    one, other = two
    who = limited()
    await one.take(who)
    other.unconfirmed.append(record_of(who))
    await world.patient.flushdb()

    assert await one.left(who) == A_DAY - EACH


async def test_what_is_declared_and_in_the_ledger_counts_once(
    world: Limiters, two: tuple[Process, Process]
) -> None:
    one, other = two
    who = limited()
    running = await other.take(who, 700)
    records = [record_of(who), record_of(who, running)]
    other.unconfirmed.append(records[0])
    await world.rows.insert_batch(records)
    await world.patient.flushdb()

    assert await one.left(who) == A_DAY - 700 - EACH


async def test_places_taken_elsewhere_are_counted(world: Limiters, two: tuple[Process, Process]) -> None:
    one, other = two
    who = limited(concurrency=2)
    await other.take(who)
    await world.patient.flushdb()
    await one.take(who)

    with pytest.raises(LimitExceeded):
        await one.take(who)


@pytest.mark.parametrize("kind", ["requests_per_minute", "tokens_per_minute"])
async def test_a_flush_gives_no_second_minute(
    world: Limiters, two: tuple[Process, Process], kind: str
) -> None:
    one, other = two
    who = limited(**{kind: 2})
    for _ in range(2):
        await other.take(who, 1)
    await world.patient.flushdb()

    with pytest.raises(LimitExceeded):
        await one.take(who, 1)


async def test_a_request_that_ends_while_it_is_counted_is_charged_the_fact(
    world: Limiters, two: tuple[Process, Process]
) -> None:
    one, other = two
    who = limited()
    assert who.tenant_id is not None
    request_id = await other.take(who, 700)
    await world.patient.flushdb()
    world.may_read.clear()
    reads = world.reads
    asking = asyncio.create_task(one.left(who))
    async with asyncio.timeout(WITHIN_S):
        while world.reads == reads:  # noqa: ASYNC110 - the reader sets no event
            await asyncio.sleep(0)
    # It was declared as running; now it ends, and is in the ledger before anybody reads that.
    record = record_of(who, request_id)
    other.unconfirmed.append(record)
    other.limiter.settle(who.tenant_id, request_id, EACH)
    await other.limiter.settle_waiting()
    await world.rows.insert_batch([record])
    world.may_read.set()

    assert await asking == A_DAY - EACH


async def test_who_settles_what_redis_forgot_has_it_counted_anew(
    world: Limiters, two: tuple[Process, Process]
) -> None:
    one, other = two
    who = limited()
    assert who.tenant_id is not None
    request_id = await other.take(who, 700)
    await world.patient.flushdb()
    # The other one does not hear the call: it is thought to be gone.
    await other.stop()
    await world.look(after_s=8)
    assert await exact(one, who) == A_DAY
    record = record_of(who, request_id)
    one.unconfirmed.append(record)
    one.limiter.settle_adopted(record)
    await one.limiter.settle_waiting()

    assert await exact(one, who) == A_DAY - EACH


# -- before all have told


async def test_nothing_is_granted_by_counters_that_lack_a_live_process(
    world: Limiters, two: tuple[Process, Process]
) -> None:
    one, other = two
    who = limited(tokens_per_day=1000)
    await one.take(who)
    await other.take(who, 900)
    await other.stop(gone=False)
    await world.patient.flushdb()

    with pytest.raises(Unavailable):
        # Half of the day is this process's share.
        await one.take(who, 600)
    await one.take(who, 400)


async def test_a_process_that_is_gone_is_waited_for_no_longer(
    world: Limiters, two: tuple[Process, Process]
) -> None:
    one, other = two
    who = limited()
    await one.take(who)
    await other.stop()
    await world.patient.flushdb()
    await world.look(after_s=8)

    assert await exact(one, who) == A_DAY


async def test_a_recount_that_failed_is_not_tried_by_every_request(
    world: Limiters, two: tuple[Process, Process]
) -> None:
    one, _ = two
    who = limited()
    world.broken = True
    with capture_logs() as logs:
        for _ in range(20):
            with pytest.raises(Unavailable):
                await one.take(who, 1)

    assert world.reads <= 3
    assert [log["event"] for log in logs].count("limits_not_recounted") == 1
    world.broken = False
    assert await exact(one, who) == A_DAY


async def test_each_request_hears_of_a_failed_recount_for_itself(
    world: Limiters, two: tuple[Process, Process]
) -> None:
    """One failure raised again and again would hold on to every request that heard of it, and what it said."""
    one, _ = two
    world.broken = True
    recounts = Recounts(
        LimitRecounts(one.redis, process_id=one.name),
        RecountBoard(world.patient, process_id=one.name),
        processes=one.processes,
        ledger=world.spent,
        declare=lambda _: Declaration(),
    )
    day, month = bounds("UTC", datetime.now(UTC))
    tenant_id, told = TenantId(uuid4()), []
    for _ in range(3):
        with pytest.raises(NotRecounted) as failed:
            await recounts.made(tenant_id, day, month)
        told.append(failed.value)
    await recounts.aclose()

    assert len(set(map(id, told))) == 3


# -- Redis away


@pytest.fixture(scope="module")
def own_valkey() -> Iterator[StoppableValkey]:
    with stoppable_valkey() as valkey:
        yield valkey


@pytest.fixture
async def outage(engine: AsyncEngine, own_valkey: StoppableValkey) -> AsyncIterator[Limiters]:
    own_valkey.start()
    async with Limiters(engine, own_valkey.url, timeout_s=0.3) as world:
        yield world


async def let_in(process: Process, who: Principal, tokens: int = 0, *, tries: int = 20) -> list[RequestId]:
    """Ask so often and return what was let in."""
    found = []
    for _ in range(tries):
        try:
            found.append(await process.take(who, tokens))
        except (LimitExceeded, Unavailable):
            continue
    return found


@pytest.mark.parametrize(
    ("limits", "tokens"),
    [
        ({"requests_per_minute": 7}, 0),
        ({"concurrency": 7}, 0),
        ({"tokens_per_day": 7}, 1),
        ({"tokens_per_month": 7}, 1),
    ],
    ids=["requests", "places", "day", "month"],
)
async def test_the_shares_of_all_processes_are_the_limit(
    outage: Limiters, own_valkey: StoppableValkey, limits: dict[str, int], tokens: int
) -> None:
    processes = [await outage.process() for _ in range(3)]
    who = limited(**limits)
    with own_valkey.gone():
        found = [await let_in(process, who, tokens) for process in processes]

    assert sorted(map(len, found)) == [2, 2, 3]


async def test_a_share_is_of_what_was_left(outage: Limiters, own_valkey: StoppableValkey) -> None:
    one, other = await outage.process(), await outage.process()
    who = limited(tokens_per_day=1000)
    await outage.rows.insert_batch([record_of(who) for _ in range(10)])
    await one.take(who, 100)
    await other.take(who, 0)
    with own_valkey.gone():
        # The ledger has spent 300; half of the rest is 350, of which one has reserved 100.
        assert len(await let_in(one, who, 50)) == 5
        # Redis told the other one of these 100 as well.
        assert len(await let_in(other, who, 50)) == 6


async def test_a_rate_goes_on_where_it_was(outage: Limiters, own_valkey: StoppableValkey) -> None:
    one = await outage.process()
    who = limited(requests_per_minute=4)
    for _ in range(3):
        await one.take(who)
    with own_valkey.gone():
        assert len(await let_in(one, who)) == 1


async def test_a_quota_that_is_spent_says_so_also_without_redis(
    outage: Limiters, own_valkey: StoppableValkey
) -> None:
    one = await outage.process()
    who = limited(tokens_per_day=100)
    await outage.rows.insert_batch([record_of(who) for _ in range(4)])
    with own_valkey.gone(), pytest.raises(LimitExceeded):
        await one.take(who, 50)


async def test_without_redis_and_the_ledger_no_quota_is_spent(
    outage: Limiters, own_valkey: StoppableValkey
) -> None:
    one = await outage.process()
    quota, rate = limited(tokens_per_day=100), limited(requests_per_minute=100)
    outage.broken = True
    with own_valkey.gone():
        with pytest.raises(Unavailable):
            await one.take(quota, 1)
        await one.take(rate, 1)


async def test_what_was_let_in_without_redis_is_counted_when_it_is_back(
    outage: Limiters, own_valkey: StoppableValkey
) -> None:
    one, other = await outage.process(), await outage.process()
    who = limited()
    assert who.tenant_id is not None
    await one.take(who)
    with own_valkey.gone():
        await one.take(who, 100)
        ended = await other.take(who, 200)
        other.unconfirmed.append(record_of(who, ended))
        other.limiter.settle(who.tenant_id, ended, EACH)

    assert await exact(one, who) == A_DAY - 100 - EACH
    await handed_over(one, other)
    assert await exact(other, who) == A_DAY - 100 - EACH


async def test_a_server_that_only_hung_is_told_as_well(outage: Limiters, own_valkey: StoppableValkey) -> None:
    one, other = await outage.process(), await outage.process()
    who = limited()
    await one.take(who, 10)
    with own_valkey.silent():
        await one.take(who, 100)
        await other.take(who, 200)

    assert await exact(one, who) == A_DAY - 310


# -- whatever happens


class Chance:
    """Processes that do what chance says; the ledger is a list, so that much can happen in a moment."""

    def __init__(self, world: Limiters, who: Principal, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = world
        self.who = who
        self.ledger: dict[RequestId, UsageRecord] = {}
        self.processes: list[Process] = []
        self.running: dict[RequestId, Process] = {}
        self.tokens = 0
        world.spent = self._spent  # type: ignore[method-assign] # a list in place of the table

    async def _spent(
        self, tenant_id: TenantId, *, since: Collection[datetime], without: Collection[RequestId] = ()
    ) -> Mapping[datetime, Mapping[KeyId, int]]:
        await self._pause()
        assert tenant_id == self.who.tenant_id
        rows = [record for request_id, record in self.ledger.items() if request_id not in without]
        found: dict[datetime, dict[KeyId, int]] = {moment: {} for moment in since}
        for moment, by_key in found.items():
            for row in rows:
                if row.admission.started_at >= moment:
                    by_key[self.who.key_id] = by_key.get(self.who.key_id, 0) + EACH
        return found

    async def _pause(self) -> None:
        for _ in range(self.random.randrange(30)):
            await asyncio.sleep(0)

    async def step(self) -> None:
        """Do one thing."""
        await self._pause()
        process = self.random.choice(self.processes)
        what = self.random.choices(
            (self.take, self.end, self.account, self.confirm, self.hand_over, self.flush, self.doubt),
            weights=(30, 25, 15, 10, 15, 3, 3),
        )
        await what[0](process)

    async def take(self, process: Process) -> None:
        """Let a request in."""
        try:
            request_id = await process.take(self.who, self.random.randrange(1, 100))
        except (LimitExceeded, Unavailable):
            return
        self.running[request_id] = process

    async def end(self, _: Process) -> None:
        """Let one end."""
        if self.running:
            request_id = self.random.choice(list(self.running))
            self._end(request_id, self.running.pop(request_id))

    def _end(self, request_id: RequestId, process: Process) -> None:
        assert self.who.tenant_id is not None
        process.unconfirmed.append(record_of(self.who, request_id))
        self.tokens += EACH
        process.limiter.settle(self.who.tenant_id, request_id, EACH)

    async def account(self, process: Process) -> None:
        """Write some records to the ledger."""
        for record in process.unconfirmed[: self.random.randrange(4)]:
            self.ledger[record.admission.request_id] = record

    async def confirm(self, process: Process) -> None:
        """Let the process know what the ledger has."""
        process.unconfirmed[:] = [
            record for record in process.unconfirmed if record.admission.request_id not in self.ledger
        ]

    async def hand_over(self, process: Process) -> None:
        """Settle."""
        await process.limiter.settle_waiting()

    async def flush(self, _: Process) -> None:
        """Take Redis's memory."""
        await self.world.patient.flushdb()

    async def doubt(self, process: Process) -> None:
        """Have the counters made anew, as after a settlement that found nothing."""
        assert self.who.tenant_id is not None
        with suppress(RedisError):
            await LimitStore(process.redis, process_id=process.name).forget(self.who.tenant_id)

    async def finish(self) -> None:
        """Let all end and everything be told."""
        for request_id, process in list(self.running.items()):
            self._end(request_id, process)
        self.running.clear()
        await handed_over(*self.processes)


async def ends_well(chance: Chance) -> None:
    """Check that Redis counts what was spent, and that nothing is held any more."""
    await chance.finish()
    assert await exact(chance.processes[0], chance.who) == A_DAY * 100 - chance.tokens
    await handed_over(*chance.processes)
    prefix = f"nng:{{t:{chance.who.tenant_id}}}"
    patient: Any = chance.world.patient
    assert [await patient.hgetall(f"{prefix}:{name}") for name in ("open", "running")] == [{}, {}]
    assert await exact(chance.processes[-1], chance.who) == A_DAY * 100 - chance.tokens


@pytest.mark.parametrize("run", range(count(6, 300)))
async def test_whatever_is_forgotten_the_counters_come_to_what_was_spent(world: Limiters, run: int) -> None:
    seed = uuid4().int & 0xFFFFFFFF
    print(f"run {run}, seed {seed}")  # noqa: T201 - to play it again
    chance = Chance(world, limited(tokens_per_day=A_DAY * 100), seed)
    chance.processes = [await world.process() for _ in range(3)]
    for _ in range(STEPS):
        await asyncio.gather(*(chance.step() for _ in range(8)))

    await ends_well(chance)


@pytest.mark.parametrize("run", range(count(1, 30)))
async def test_whenever_redis_is_away_the_counters_come_to_what_was_spent(
    outage: Limiters, own_valkey: StoppableValkey, run: int
) -> None:
    seed = uuid4().int & 0xFFFFFFFF
    print(f"run {run}, seed {seed}")  # noqa: T201
    chance = Chance(outage, limited(tokens_per_day=A_DAY * 100), seed)
    chance.processes = [await outage.process() for _ in range(3)]
    for _ in range(4):
        await asyncio.gather(*(chance.step() for _ in range(60)))
        with chance.random.choice((own_valkey.gone, own_valkey.silent))():
            await asyncio.gather(*(chance.step() for _ in range(40)), return_exceptions=True)

    await ends_well(chance)
