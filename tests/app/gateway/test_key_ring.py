"""Where keys are looked up, what may be remembered, and for how long."""

import asyncio
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid4

import msgspec
import pytest

from app.gateway.key_ring import AWAY_AFTER_S, MAX_UNKNOWN, OUTAGE_GRACE_S, UNKNOWN_TTL_S, KeyRing
from app.gateway.revocations import RevocationFollower, Revoked
from domain.errors import Unavailable
from domain.values import Principal, Role
from tests.support.clock import Clock
from tests.support.principals import principal
from tests.support.waiting import until

DIGESTS: Final = (b"new", b"old")


class Entry(msgspec.Struct, frozen=True):
    """What a store knows of a digest."""

    principal: Principal | None
    seq: int


class Row(msgspec.Struct, frozen=True):
    """One row of the sequence."""

    seq: int
    scope: str
    subject_id: UUID
    at: datetime = datetime(2026, 11, 23, tzinfo=UTC)
    usable: bool = True


class Shared:
    """The cache in Redis, as a dictionary; `gate` holds writes back."""

    def __init__(self, asked: list[str]) -> None:
        self._asked = asked
        self.entries: dict[bytes, tuple[Principal, int]] = {}
        self.gate: asyncio.Event | None = None

    async def get(self, digest: bytes) -> Entry | None:
        self._asked.append("redis")
        entry = self.entries.get(digest)
        return None if entry is None else Entry(*entry)

    async def put(self, digest: bytes, principal: Principal, seq: int) -> None:
        self._asked.append("store")
        if self.gate is not None:
            await self.gate.wait()
        self.entries[digest] = (principal, seq)


class World:
    """A key ring between a scripted Redis and a scripted Postgres, with its follower at number 10."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.clock = Clock()
        self.seq = 10
        self.stored: dict[tuple[bytes, ...], Principal] = {}
        self.before_answer: list[asyncio.Event] = []
        self.fails: Exception | None = None
        self.follower = RevocationFollower(latest=self._latest, since=self._since, now=self.clock)
        self.shared = Shared(self.asked)
        self.redis_is_away = False
        self.ring = KeyRing(
            find=self._find,
            shared=self.shared,
            revocations=self.follower,
            redis_is_away=lambda: self.redis_is_away,
            now=self.clock,
        )

    async def _latest(self) -> int:
        return self.seq

    async def _since(self, seq: int, limit: int) -> list[Revoked]:
        raise AssertionError(f"nobody reads rows in these tests: {seq}, {limit}")

    async def _find(self, digests: tuple[bytes, ...]) -> Entry:
        self.asked.append("postgres")
        found = Entry(self.stored.get(digests), self.seq)
        if self.before_answer:
            await self.before_answer.pop(0).wait()
        if self.fails is not None:
            raise self.fails
        return found

    def revoke(self) -> None:
        """Move the sequence on, here and in Postgres, without naming anybody."""
        self.seq += 1
        self.follower.seq = self.seq

    def revoke_subject(self, scope: str, subject: UUID | None, *, ended: bool = False) -> None:
        """Announce one row, which Postgres has too."""
        assert subject is not None
        self.seq += 1
        self.follower.take(self.seq - 1, self.seq, [Row(self.seq, scope, subject, usable=not ended)])

    async def find(self, digests: tuple[bytes, ...] = DIGESTS) -> Principal | None:
        return await self.ring.find_by_digest(digests)


@pytest.fixture
async def world() -> World:
    world = World()
    await world.follower.poll()
    return world


async def test_memory_is_asked_first_then_redis_then_postgres(world: World) -> None:
    owner = world.stored[DIGESTS] = principal()

    assert await world.find() is owner
    assert world.asked == ["redis", "postgres", "store"]
    assert await world.find() is owner
    assert world.asked == ["redis", "postgres", "store"]


async def test_what_another_process_stored_in_redis_spares_postgres(world: World) -> None:
    owner = principal()
    world.shared.entries[DIGESTS[0]] = (owner, 10)

    assert await world.find() is owner
    assert world.asked == ["redis"]
    assert world.ring.remembered(DIGESTS[0]) is owner


@pytest.mark.parametrize(
    ("seq", "asked"),
    [(9, ["redis", "postgres", "store"]), (10, ["redis"]), (11, ["redis", "postgres", "store"])],
)
async def test_an_entry_in_redis_of_another_number_than_the_known_one_is_ignored(
    world: World, seq: int, asked: list[str]
) -> None:
    """An older one may be revoked; one that is ahead may be left from before a restore."""
    world.shared.entries[DIGESTS[0]] = (principal(), seq)
    world.stored[DIGESTS] = principal()

    await world.find()

    assert world.asked == asked


async def test_what_postgres_says_is_shared_with_the_number_it_was_read_at(world: World) -> None:
    owner = world.stored[DIGESTS] = principal()

    await world.find()

    assert world.shared.entries == {DIGESTS[0]: (owner, 10)}


async def test_nothing_is_remembered_before_it_was_found(world: World) -> None:
    assert world.ring.remembered(DIGESTS[0]) is None


async def test_many_who_ask_for_one_key_cost_one_look_up(world: World) -> None:
    owner = world.stored[DIGESTS] = principal()
    answer = asyncio.Event()
    world.before_answer = [answer]

    waiting = [asyncio.create_task(world.find()) for _ in range(100)]
    await until(lambda: "postgres" in world.asked, within_s=5)
    answer.set()

    assert await asyncio.gather(*waiting) == [owner] * 100
    assert world.asked.count("postgres") == 1


async def test_one_who_stops_waiting_costs_the_others_nothing(world: World) -> None:
    owner = world.stored[DIGESTS] = principal()
    answer = asyncio.Event()
    world.before_answer = [answer]
    leaves, stays = (asyncio.create_task(world.find()) for _ in range(2))
    await until(lambda: "postgres" in world.asked, within_s=5)

    leaves.cancel()
    answer.set()

    assert await stays is owner
    assert leaves.cancelled() or leaves.cancelling()


async def test_different_keys_are_looked_up_side_by_side(world: World) -> None:
    answers = [asyncio.Event(), asyncio.Event()]
    world.before_answer = list(answers)

    waiting = [asyncio.create_task(world.find((digest,))) for digest in (b"a", b"b")]
    await until(lambda: world.asked.count("postgres") == 2, within_s=5)
    for answer in answers:
        answer.set()

    assert await asyncio.gather(*waiting) == [None, None]


# -- unknown keys


async def test_an_unknown_key_is_not_asked_for_again_within_five_seconds(world: World) -> None:
    assert await world.find() is None
    world.clock.at += UNKNOWN_TTL_S - 0.01
    assert await world.find() is None

    assert world.asked == ["redis", "postgres"]


async def test_an_unknown_key_that_exists_now_works_after_five_seconds(world: World) -> None:
    await world.find()
    owner = world.stored[DIGESTS] = principal()
    world.clock.at += UNKNOWN_TTL_S

    assert await world.find() is owner


async def test_unknown_keys_are_never_shared(world: World) -> None:
    await world.find()

    assert world.shared.entries == {}


async def test_t04_guessing_neither_fills_memory_nor_pushes_real_keys_out(world: World) -> None:
    owner = world.stored[DIGESTS] = principal()
    await world.find()

    for number in range(MAX_UNKNOWN + 100):
        await world.find((b"%d" % number,))

    world.asked.clear()
    assert await world.find() is owner
    assert await world.find((b"%d" % (MAX_UNKNOWN + 99),)) is None
    assert world.asked == []
    await world.find((b"0",))
    assert world.asked == ["redis", "postgres"]


# -- revocations


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


# -- Postgres away


async def test_f16_cached_keys_work_for_a_minute_without_postgres(world: World) -> None:
    owner = world.stored[DIGESTS] = principal()
    await world.find()
    world.clock.at += OUTAGE_GRACE_S

    assert world.ring.remembered(DIGESTS[0]) is owner
    assert await world.find() is owner


async def test_f17_without_both_stores_nobody_works(world: World) -> None:
    world.stored[DIGESTS] = principal()
    await world.find()
    world.redis_is_away = True
    assert world.ring.remembered(DIGESTS[0]) is not None
    world.clock.at += AWAY_AFTER_S + 0.01

    assert world.ring.remembered(DIGESTS[0]) is None
    with pytest.raises(Unavailable, match="stores_unreachable"):
        await world.find()


async def test_f16_after_a_minute_without_postgres_nobody_works(world: World) -> None:
    world.stored[DIGESTS] = principal()
    await world.find()
    world.clock.at += OUTAGE_GRACE_S + 0.01

    assert world.ring.remembered(DIGESTS[0]) is None
    with pytest.raises(Unavailable):
        await world.find()


async def test_f16_keys_work_again_once_postgres_confirms(world: World) -> None:
    owner = world.stored[DIGESTS] = principal()
    await world.find()
    world.clock.at += 10 * OUTAGE_GRACE_S
    await world.follower.poll()

    assert world.ring.remembered(DIGESTS[0]) is owner


async def test_f16_a_key_known_to_redis_alone_works_while_postgres_is_away(world: World) -> None:
    owner = principal()
    world.shared.entries[DIGESTS[0]] = (owner, 10)
    world.fails = OSError("away")

    assert await world.find() is owner


async def test_f16_a_key_in_no_cache_is_our_trouble_and_asked_for_anew(world: World) -> None:
    owner = world.stored[DIGESTS] = principal()
    world.fails = OSError("away")
    with pytest.raises(Unavailable):
        await world.find()

    world.fails = None
    assert await world.find() is owner


async def test_before_postgres_was_ever_asked_nobody_works() -> None:
    with pytest.raises(Unavailable):
        await World().find()


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
