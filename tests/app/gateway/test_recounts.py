"""Counters made anew: with what every process holds, without anything twice, and never before all have told."""

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from app.gateway.recounts import NotRecounted, Recounts
from db.redis.limit_recounts import LimitRecounts
from db.redis.recount_board import RecountBoard
from domain.errors import LimitExceeded, Unavailable
from domain.periods import bounds
from domain.recounts import Declaration
from domain.values import TenantId
from tests.support.limiters import A_DAY, EACH, WITHIN_S, Limiters, Process, exact, limited, record_of


@pytest.fixture
async def two(limiters: Limiters) -> tuple[Process, Process]:
    return await limiters.process(), await limiters.process()


# -- what others hold


async def test_what_runs_elsewhere_is_counted(limiters: Limiters, two: tuple[Process, Process]) -> None:
    one, other = two
    who = limited()
    await other.take(who, 700)
    await limiters.patient.flushdb()

    assert await one.left(who) == A_DAY - 700


async def test_what_ended_elsewhere_and_is_not_in_the_ledger_is_counted(
    limiters: Limiters, two: tuple[Process, Process]
) -> None:
    one, other = two
    who = limited()
    await one.take(who)
    other.unconfirmed.append(record_of(who))
    await limiters.patient.flushdb()

    assert await one.left(who) == A_DAY - EACH


async def test_what_is_declared_and_in_the_ledger_counts_once(
    limiters: Limiters, two: tuple[Process, Process]
) -> None:
    one, other = two
    who = limited()
    running = await other.take(who, 700)
    records = [record_of(who), record_of(who, running)]
    other.unconfirmed.append(records[0])
    await limiters.rows.insert_batch(records)
    await limiters.patient.flushdb()

    assert await one.left(who) == A_DAY - 700 - EACH


async def test_places_taken_elsewhere_are_counted(limiters: Limiters, two: tuple[Process, Process]) -> None:
    one, other = two
    who = limited(concurrency=2)
    await other.take(who)
    await limiters.patient.flushdb()
    await one.take(who)

    with pytest.raises(LimitExceeded):
        await one.take(who)


@pytest.mark.parametrize("kind", ["requests_per_minute", "tokens_per_minute"])
async def test_a_flush_gives_no_second_minute(
    limiters: Limiters, two: tuple[Process, Process], kind: str
) -> None:
    one, other = two
    who = limited(**{kind: 2})
    for _ in range(2):
        await other.take(who, 1)
    await limiters.patient.flushdb()

    with pytest.raises(LimitExceeded):
        await one.take(who, 1)


async def test_a_request_that_ends_while_it_is_counted_is_charged_the_fact(
    limiters: Limiters, two: tuple[Process, Process]
) -> None:
    one, other = two
    who = limited()
    assert who.tenant_id is not None
    request_id = await other.take(who, 700)
    await limiters.patient.flushdb()
    limiters.may_read.clear()
    reads = limiters.reads
    asking = asyncio.create_task(one.left(who))
    async with asyncio.timeout(WITHIN_S):
        while limiters.reads == reads:  # noqa: ASYNC110 - the reader sets no event
            await asyncio.sleep(0)
    # It was declared as running; now it ends, and is in the ledger before anybody reads that.
    record = record_of(who, request_id)
    other.unconfirmed.append(record)
    other.limiter.settle(who.tenant_id, request_id, EACH)
    await other.limiter.settle_waiting()
    await limiters.rows.insert_batch([record])
    limiters.may_read.set()

    assert await asking == A_DAY - EACH


async def test_who_settles_what_redis_forgot_has_it_counted_anew(
    limiters: Limiters, two: tuple[Process, Process]
) -> None:
    one, other = two
    who = limited()
    assert who.tenant_id is not None
    request_id = await other.take(who, 700)
    await limiters.patient.flushdb()
    # The other one does not hear the call: it is thought to be gone.
    await other.stop()
    await limiters.look(after_s=8)
    assert await exact(one, who) == A_DAY
    record = record_of(who, request_id)
    one.unconfirmed.append(record)
    one.limiter.settle_adopted(record)
    await one.limiter.settle_waiting()

    assert await exact(one, who) == A_DAY - EACH


# -- before all have told


async def test_nothing_is_granted_by_counters_that_lack_a_live_process(
    limiters: Limiters, two: tuple[Process, Process]
) -> None:
    one, other = two
    who = limited(tokens_per_day=1000)
    await one.take(who)
    await other.take(who, 900)
    await other.stop(gone=False)
    await limiters.patient.flushdb()

    with pytest.raises(Unavailable):
        # Half of the day is this process's share.
        await one.take(who, 600)
    await one.take(who, 400)


async def test_a_process_that_is_gone_is_waited_for_no_longer(
    limiters: Limiters, two: tuple[Process, Process]
) -> None:
    one, other = two
    who = limited()
    await one.take(who)
    await other.stop()
    await limiters.patient.flushdb()
    await limiters.look(after_s=8)

    assert await exact(one, who) == A_DAY


async def test_a_recount_that_failed_is_not_tried_by_every_request(
    limiters: Limiters, two: tuple[Process, Process]
) -> None:
    one, _ = two
    who = limited()
    limiters.broken = True
    with capture_logs() as logs:
        for _ in range(20):
            with pytest.raises(Unavailable):
                await one.take(who, 1)

    assert limiters.reads <= 3
    assert [log["event"] for log in logs].count("limits_not_recounted") == 1
    limiters.broken = False
    assert await exact(one, who) == A_DAY


async def test_each_request_hears_of_a_failed_recount_for_itself(
    limiters: Limiters, two: tuple[Process, Process]
) -> None:
    """One failure raised again and again would hold on to every request that heard of it, and what it said."""
    one, _ = two
    limiters.broken = True
    recounts = Recounts(
        LimitRecounts(one.redis, process_id=one.name),
        RecountBoard(limiters.patient, process_id=one.name),
        processes=one.processes,
        ledger=limiters.spent,
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
