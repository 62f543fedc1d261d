"""Differences between what Redis counts for limits and what requests took, made on real stores."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from app.gateway.journal.journal import Journal
from app.reconcile.findings import FindingKind
from app.reconcile.survey import survey
from domain.limits import LimitKind
from domain.usage import UsageRecord
from tests.app.reconcile.conftest import ACTOR, TOKENS, World
from tests.support.limits import STANDING, running_requests

SECONDS = 120


async def serve(world: World) -> UsageRecord:
    """Let a request in, and settle it: only its row is still to come."""
    request_id = await world.take()
    record = world.record(request_id, counted=True)
    await world.limits.settle(world.tenant_id, request_id, TOKENS)
    return record


async def served(world: World) -> UsageRecord:
    """Serve a request to its row."""
    record = await serve(world)
    await world.rows.insert_batch([record])
    return record


async def running(world: World) -> dict[bytes, int]:
    """Return how many requests run by scope."""
    return running_requests(await world.redis.hgetall(f"{world.prefix}:now"))


async def differing(world: World) -> dict[str, str]:
    """Return by how much each counter differs."""
    found = await world.found()
    assert {finding.kind for finding in found} <= {FindingKind.TOKENS_DIFFER, FindingKind.RUNNING_DIFFERS}
    return {finding.where: finding.how_much for finding in found}


async def test_counters_that_hold_what_rows_say_do_not_differ(world: World) -> None:
    await served(world)
    await served(world)

    assert await world.found() == []


async def test_a_running_request_counts_with_what_it_reserved(world: World) -> None:
    await world.take(5000)

    assert await world.found() == []


async def test_a_settled_request_counts_wherever_its_record_is(world: World) -> None:
    record = await serve(world)
    journal = world.journal(record)
    assert await world.found() == []

    journal.close()

    assert await world.kinds() == [FindingKind.JOURNAL_UNSHIPPED]


async def test_a_request_whose_row_came_before_its_settlement_counts_as_reserved(world: World) -> None:
    request_id = await world.take()
    record = world.record(request_id, counted=True)
    just_now = msgspec.structs.replace(record.settlement, ended_at=datetime.now(UTC))
    await world.rows.insert_batch([UsageRecord(record.admission, just_now)])

    assert await world.found() == []


@pytest.mark.parametrize(("off", "how_much"), [(500, "500 too many"), (-3, "3 too few")])
async def test_sums_that_are_off_are_named_to_the_token_and_counted_anew(
    world: World, off: int, how_much: str
) -> None:
    await served(world)
    for period in ("d", "m"):
        (key,) = await world.redis.keys(f"{world.prefix}:{period}:*")
        await world.redis.hincrby(key, "t", off)
    assert await differing(world) == {"tenant acme, day": how_much, "tenant acme, month": how_much}

    await world.repair()

    assert not await world.redis.hexists(f"{world.prefix}:now", "epoch")
    assert await world.found() == []


async def test_a_key_of_a_limited_tenant_is_compared_as_well(world: World) -> None:
    await served(world)
    (key,) = await world.redis.keys(f"{world.prefix}:d:*")
    await world.redis.hincrby(key, world.key_id.bytes, 2)
    ((where, how_much),) = (await differing(world)).items()

    assert where.startswith("tenant acme, key nng_")
    assert (where.rpartition(", ")[2], how_much) == ("day", "2 too many")


async def test_a_tenant_whose_requests_are_not_all_counted_is_not_compared(world: World) -> None:
    async with world.stores.database.unit_of_work(ACTOR) as work:
        await work.limits(world.tenant_id).clear()
    await world.rows.insert_batch([world.record(counted=True)])

    assert await world.found() == []


async def test_a_limited_key_of_an_unlimited_tenant_is_compared(world: World) -> None:
    async with world.stores.database.unit_of_work(ACTOR) as work:
        await work.limits(world.tenant_id).clear()
        await work.limits(world.tenant_id).set({LimitKind.TOKENS_PER_DAY: 9}, key=str(world.key_id))
    await world.rows.insert_batch([world.record(counted=True)])

    assert {where.split(",")[1].split()[0] for where in await differing(world)} == {"key"}


async def test_counters_that_nothing_is_granted_by_are_not_compared(world: World) -> None:
    await world.limits.forget(world.tenant_id)
    await world.rows.insert_batch([world.record(counted=True)])

    assert await world.found() == []


async def test_running_requests_are_counted_anew_from_their_reservations(world: World) -> None:
    await world.take()
    miscounted = {b"t": 3, world.key_id.bytes: 0}
    await world.redis.hset(
        f"{world.prefix}:now",
        mapping={scope: STANDING.pack(0, 0, 0, 0, running) for scope, running in miscounted.items()},
    )
    assert sorted((await differing(world)).values()) == ["1 too few", "2 too many"]

    await world.repair()

    assert await world.found() == []
    await world.begin()
    assert await running(world) == {b"t": 1, world.key_id.bytes: 1}
    assert await world.found() == []


async def test_what_a_dead_process_holds_is_given_back(world: World) -> None:
    await world.take(process="dead")
    assert await world.found() == []
    await world.age_reservations(SECONDS)
    (finding,) = await world.found()
    assert finding.kind is FindingKind.RESERVED_BY_DEAD
    assert finding.how_much == "1 reservation of 100 tokens, process dead"

    assert await world.repair() == ["1 given back"]

    assert await running(world) == {}


async def test_a_request_of_which_nobody_knows_anything_is_named(world: World) -> None:
    request_id = await world.take(process="dead")
    await world.age_reservations(SECONDS)
    await world.leases.sweep(world.tenant_id, frozenset({"alive"}))
    (finding,) = await world.found()

    assert (finding.kind, finding.requests) == (FindingKind.REQUEST_UNRECORDED, (request_id,))
    assert await world.repair() == [None]


async def test_a_request_whose_record_a_journal_has_is_not_unrecorded(world: World) -> None:
    request_id = await world.take(process="dead")
    await world.age_reservations(SECONDS)
    await world.leases.sweep(world.tenant_id, frozenset({"alive"}))
    left(world.journal(world.record(request_id, counted=True)))

    assert await world.kinds() == [FindingKind.JOURNAL_UNSHIPPED]


def left(journal: Journal) -> Path:
    journal.close()
    return journal.path


@pytest.mark.parametrize("swept", [False, True])
async def test_a_request_that_ended_long_ago_is_settled_with_what_its_row_says(
    world: World, *, swept: bool
) -> None:
    request_id = await world.take(process="dead")
    await world.age_reservations(SECONDS)
    if swept:
        await world.leases.sweep(world.tenant_id, frozenset({"alive"}))
    await world.rows.insert_batch([world.record(request_id, counted=True)])
    (finding,) = await world.found()
    assert finding.kind is FindingKind.RESERVED_AFTER_END

    assert await world.repair() == ["1 settled"]

    assert await world.redis.exists(f"{world.prefix}:open") == 0
    (day,) = await world.redis.keys(f"{world.prefix}:d:*")
    assert await world.redis.hget(day, "t") == str(TOKENS).encode()
    assert await world.found() == []


async def test_a_difference_that_changes_between_the_looks_is_not_reported(world: World) -> None:
    await served(world)
    (day,) = await world.redis.keys(f"{world.prefix}:d:*")
    await world.redis.hincrby(day, "t", 5)

    async def change(_: float) -> None:
        await world.redis.hincrby(day, "t", 5)

    since = datetime.now(UTC) - timedelta(days=1)
    assert (await survey(world.stores, since=since, pause=change)).findings == ()
