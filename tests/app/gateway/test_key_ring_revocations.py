"""What a key ring forgets when somebody is revoked, and what it keeps."""

import asyncio
from uuid import uuid4

import pytest

from domain.values import Role
from tests.support.key_rings import DIGESTS, World
from tests.support.principals import principal
from tests.support.waiting import until


@pytest.fixture
async def world() -> World:
    world = World()
    await world.follower.poll()
    return world


async def test_a_read_that_began_before_a_revocation_is_not_kept(world: World) -> None:
    world.stored[DIGESTS] = principal()
    answer = asyncio.Event()
    world.before_answer = [answer]

    asking = asyncio.create_task(world.find())
    await until(lambda: "postgres" in world.asked, within_s=5)
    del world.stored[DIGESTS]
    world.revoke()
    answer.set()

    assert await asking is None
    assert world.asked == ["redis", "postgres", "postgres"]
    assert world.shared.entries == {}


async def test_a_revocation_during_the_write_to_redis_is_noticed(world: World) -> None:
    world.stored[DIGESTS] = principal()
    world.shared.gate = asyncio.Event()

    asking = asyncio.create_task(world.find())
    await until(lambda: "store" in world.asked, within_s=5)
    del world.stored[DIGESTS]
    world.revoke()
    world.shared.gate.set()

    assert await asking is None
    assert world.ring.remembered(DIGESTS[0]) is None


async def test_revocations_faster_than_reads_end_in_an_answer_nobody_keeps(world: World) -> None:
    owner = world.stored[DIGESTS] = principal()
    answers = [asyncio.Event() for _ in range(3)]
    world.before_answer = list(answers)

    asking = asyncio.create_task(world.find())
    for number, answer in enumerate(answers, 1):
        await until(lambda n=number: world.asked.count("postgres") == n, within_s=5)  # type: ignore[misc]
        world.revoke()
        answer.set()

    assert await asking is owner
    assert world.ring.remembered(DIGESTS[0]) is None
    assert world.shared.entries == {}


async def test_a_dropped_key_is_asked_for_again_and_others_are_not(world: World) -> None:
    mine = world.stored[DIGESTS] = principal()
    other = world.stored[b"other",] = principal()
    await world.find()
    await world.find((b"other",))

    world.ring.drop_key(mine.key_id, ended=False)

    assert world.ring.remembered(DIGESTS[0]) is None
    assert world.ring.remembered(b"other") is other


async def test_a_dropped_tenant_loses_all_its_keys_and_nobody_elses(world: World) -> None:
    tenant = uuid4()
    for digest in (b"a", b"b"):
        world.stored[digest,] = principal(tenant_id=tenant)
        await world.find((digest,))
    other = world.stored[b"other",] = principal()
    await world.find((b"other",))

    world.ring.drop_tenant(tenant, ended=False)

    assert [world.ring.remembered(digest) for digest in (b"a", b"b", b"other")] == [None, None, other]


async def test_everything_can_be_dropped(world: World) -> None:
    world.stored[DIGESTS] = principal()
    await world.find()
    await world.find((b"unknown",))

    world.ring.drop_all()
    world.asked.clear()
    await world.find((b"unknown",))

    assert world.ring.remembered(DIGESTS[0]) is None
    assert world.asked == ["redis", "postgres"]


async def test_an_admins_key_belongs_to_no_tenant_and_is_dropped_by_its_id(world: World) -> None:
    admin = world.stored[DIGESTS] = principal(role=Role.ADMIN)
    await world.find()

    world.ring.drop_key(admin.key_id, ended=False)

    assert world.ring.remembered(DIGESTS[0]) is None


async def test_dropping_who_is_not_there_changes_nothing(world: World) -> None:
    owner = world.stored[DIGESTS] = principal()
    await world.find()

    world.ring.drop_key(uuid4(), ended=False)
    world.ring.drop_tenant(uuid4(), ended=False)

    assert world.ring.remembered(DIGESTS[0]) is owner


async def test_a_key_found_again_after_a_drop_can_be_dropped_again(world: World) -> None:
    owner = world.stored[DIGESTS] = principal()
    for _ in range(2):
        await world.find()
        world.ring.drop_key(owner.key_id, ended=False)

    assert world.ring.remembered(DIGESTS[0]) is None


@pytest.mark.parametrize("whose", ["key", "tenant", "another's"])
async def test_a_row_outdates_what_redis_has_of_those_it_names(world: World, whose: str) -> None:
    owner = world.stored[DIGESTS] = principal()
    assert owner.tenant_id is not None
    world.shared.entries[DIGESTS[0]] = (owner, 10)
    subject = {"key": owner.key_id, "tenant": owner.tenant_id, "another's": uuid4()}[whose]
    world.revoke_subject("tenant" if whose == "tenant" else "key", subject)

    await world.find()

    assert ("postgres" in world.asked) == (whose != "another's")


@pytest.mark.parametrize("scope", ["key", "tenant"])
async def test_any_revocation_lets_unknown_keys_be_asked_about_again(world: World, scope: str) -> None:
    """A tenant that was suspended may have been let in again: its keys were unknown meanwhile."""
    assert await world.find() is None
    owner = world.stored[DIGESTS] = principal()

    world.revoke_subject(scope, uuid4())

    assert await world.find() is owner


async def test_revocations_of_others_do_not_keep_a_key_out_of_memory(world: World) -> None:
    owner = world.stored[DIGESTS] = principal()
    answer = asyncio.Event()
    world.before_answer = [answer]
    looking = asyncio.create_task(world.find())
    await until(lambda: "postgres" in world.asked, within_s=5)
    world.revoke_subject("key", uuid4())
    answer.set()

    assert await looking is owner
    assert world.asked == ["redis", "postgres", "store"]
    assert world.ring.remembered(DIGESTS[0]) is owner


@pytest.mark.parametrize("scope", ["key", "tenant"])
async def test_a_key_that_has_ended_is_refused_without_asking(world: World, scope: str) -> None:
    owner = world.stored[DIGESTS] = principal()
    await world.find()
    world.asked.clear()
    world.revoke_subject(scope, owner.key_id if scope == "key" else owner.tenant_id, ended=True)

    assert await world.find() is None
    assert world.asked == []


@pytest.mark.parametrize("scope", ["key", "tenant"])
async def test_what_ended_and_begins_again_is_asked_about(world: World, scope: str) -> None:
    owner = world.stored[DIGESTS] = principal()
    await world.find()
    subject = owner.key_id if scope == "key" else owner.tenant_id
    world.revoke_subject(scope, subject, ended=True)
    world.revoke_subject(scope, subject)

    assert await world.find() is owner
