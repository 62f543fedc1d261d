"""Following the revocation sequence: what is dropped when, and what is only heard of."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID, uuid4

import msgspec
import pytest
import structlog

from app.gateway.revocations import MAX_RECENT, MAX_ROWS_PER_POLL, RevocationFollower
from tests.support.clock import Clock
from tests.support.principals import principal
from tests.support.waiting import until

A, B = uuid4(), uuid4()


class Row(msgspec.Struct, frozen=True):
    """One row of the sequence."""

    seq: int
    scope: str = "key"
    subject_id: UUID = A
    at: datetime = datetime(2026, 11, 23, tzinfo=UTC)
    usable: bool = True


class Cache:
    """A cache that keeps what it was told to forget."""

    def __init__(self) -> None:
        self.dropped: list[object] = []

    def drop_key(self, key_id: UUID, *, ended: bool) -> None:
        self.dropped.append(("ended key" if ended else "key", key_id))

    def drop_tenant(self, tenant_id: UUID, *, ended: bool) -> None:
        self.dropped.append(("ended tenant" if ended else "tenant", tenant_id))

    def drop_all(self) -> None:
        self.dropped.append("all")


class World:
    """A follower of a scripted sequence."""

    def __init__(self, *rows: Row, latest: int = 0) -> None:
        self.rows = list(rows)
        self.latest = latest
        self.fails = False
        self.asked: list[tuple[int, int]] = []
        self.clock = Clock()
        self.cache = Cache()
        self.follower = RevocationFollower(
            latest=self.newest, since=self.since, caches=[self.cache], now=self.clock
        )

    async def newest(self) -> int:
        if self.fails:
            raise OSError("away")
        return max((row.seq for row in self.rows), default=self.latest)

    async def since(self, seq: int, limit: int) -> list[Row]:
        self.asked.append((seq, limit))
        return [row for row in self.rows if row.seq > seq][:limit]

    def add(self, *rows: Row) -> None:
        self.rows += rows

    async def poll(self) -> list[object]:
        """Poll once and return what that dropped."""
        self.cache.dropped.clear()
        await self.follower.poll()
        return list(self.cache.dropped)


async def started(*rows: Row, latest: int = 0) -> World:
    world = World(*rows, latest=latest)
    await world.poll()
    return world


async def test_the_first_read_drops_everything_and_takes_the_newest_number() -> None:
    world = World(Row(41), Row(42))

    assert await world.poll() == ["all"]
    assert world.follower.seq == 42
    assert world.asked == []


async def test_an_empty_sequence_is_number_zero() -> None:
    assert (await started()).follower.seq == 0


async def test_nothing_new_drops_nothing() -> None:
    world = await started(Row(42))

    assert await world.poll() == []


async def test_newer_rows_drop_whom_they_name() -> None:
    world = await started(Row(42))
    world.add(Row(43, "key", A), Row(44, "tenant", B))

    assert await world.poll() == [("key", A), ("tenant", B)]
    assert world.follower.seq == 44
    assert world.asked == [(42, MAX_ROWS_PER_POLL)]


async def test_every_cache_hears() -> None:
    world = await started()
    second = Cache()
    world.follower.add_cache(second)
    world.add(Row(1))

    assert await world.poll() == second.dropped == [("key", A)]


async def test_a_row_committed_while_the_rows_are_read_is_acted_upon() -> None:
    cache = Cache()

    async def latest() -> int:
        return 2

    async def since(seq: int, limit: int) -> list[Row]:
        return [Row(2, subject_id=A), Row(3, subject_id=B)][seq - 1 : limit]

    follower = RevocationFollower(latest=latest, since=since, caches=[cache])
    follower.seq = 1
    await follower.poll()

    assert cache.dropped == [("key", A), ("key", B)]


async def test_too_many_rows_drop_everything() -> None:
    world = await started()
    world.add(*(Row(number) for number in range(1, MAX_ROWS_PER_POLL + 2)))

    assert await world.poll() == ["all"]
    assert world.follower.seq == MAX_ROWS_PER_POLL + 1
    assert await world.poll() == []


async def test_rows_that_were_pruned_meanwhile_drop_everything() -> None:
    world = await started(Row(1))
    world.rows = [Row(7), Row(8)]

    assert await world.poll() == ["all"]
    assert world.follower.seq == 8


async def test_a_number_without_its_row_drops_everything() -> None:
    world = await started(latest=5)
    world.latest = 9

    assert await world.poll() == ["all"]
    assert world.follower.seq == 9


async def test_t40_a_sequence_that_went_back_drops_everything() -> None:
    world = await started(Row(42))
    world.rows = [Row(17)]

    with structlog.testing.capture_logs() as logs:
        assert await world.poll() == ["all"]
    assert world.follower.seq == 17
    assert [(line["event"], line["known"], line["found"]) for line in logs] == [
        ("revocation_seq_went_back", 42, 17)
    ]


async def test_a_confirmation_counts_from_when_it_was_asked_for() -> None:
    world = World()
    asked_at = world.clock.at

    async def slow() -> int:
        world.clock.at += 1.5
        return 0

    async def nothing(seq: int, limit: int) -> list[Row]:
        return [Row(seq)][limit:]

    follower = RevocationFollower(latest=slow, since=nothing, now=world.clock)
    await follower.poll()

    assert follower.confirmed_at == asked_at


async def test_a_failed_poll_confirms_nothing_and_keeps_what_is_known() -> None:
    world = await started(Row(42))
    confirmed_at = world.follower.confirmed_at
    world.clock.at += 1
    world.fails = True

    await world.follower.poll_safely()

    assert (world.follower.seq, world.follower.confirmed_at) == (42, confirmed_at)


async def test_an_unreachable_database_is_logged_once_and_so_is_its_return() -> None:
    world = World()
    world.fails = True

    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            await world.follower.poll_safely()
        world.fails = False
        for _ in range(3):
            await world.follower.poll_safely()

    assert [line["event"] for line in logs] == ["revocation_poll_failed", "revocation_poll_recovered"]
    assert logs[0]["error"] == "OSError"


async def test_following_polls_until_it_is_cancelled() -> None:
    world = World(Row(3))
    following = asyncio.create_task(world.follower.follow())
    await until(lambda: world.follower.seq == 3, within_s=5)

    following.cancel()
    await asyncio.wait([following])

    assert following.cancelled()


# -- news that did not come from Postgres


async def test_news_that_follow_on_what_is_known_drop_whom_they_name() -> None:
    world = await started(Row(42))
    world.cache.dropped.clear()

    assert world.follower.take(42, 44, [Row(43, "key", A), Row(44, "tenant", B)])
    assert world.cache.dropped == [("key", A), ("tenant", B)]
    assert world.follower.seq == 44


async def test_news_of_what_is_known_already_drop_nothing() -> None:
    world = await started(Row(42))
    world.cache.dropped.clear()

    assert world.follower.take(40, 42, [Row(41), Row(42)])
    assert world.cache.dropped == []


@pytest.mark.parametrize(("after", "rows"), [(43, [Row(44)]), (42, [])])
async def test_news_with_a_gap_change_nothing(after: int, rows: list[Row]) -> None:
    world = await started(Row(42))
    world.cache.dropped.clear()

    assert not world.follower.take(after, 44, rows)
    assert (world.cache.dropped, world.follower.seq) == ([], 42)


async def test_news_before_the_first_read_change_nothing() -> None:
    world = World()

    assert not world.follower.take(0, 1, [Row(1)])
    assert world.follower.seq == -1


async def test_news_confirm_nothing() -> None:
    world = await started(Row(42))
    confirmed_at = world.follower.confirmed_at
    world.clock.at += 1

    world.follower.take(42, 43, [Row(43)])

    assert world.follower.confirmed_at == confirmed_at


async def test_missing_numbers_in_the_middle_drop_everything() -> None:
    """So it is after a fence: the repeated revocations follow on, the fence itself does not."""
    world = await started(latest=7)
    world.add(Row(8), Row(9, subject_id=B), Row(1_000_009))

    assert await world.poll() == ["all"]
    assert world.follower.seq == 1_000_009


async def test_news_without_rows_send_the_process_to_postgres() -> None:
    """Even with a lower number: that is what a restore looks like."""
    world = await started(latest=7)

    assert not world.follower.take(3, 3, [])


async def test_rows_known_already_are_not_dropped_again() -> None:
    world = await started(latest=7)
    world.follower.take(7, 8, [Row(8)])
    world.cache.dropped.clear()

    assert world.follower.take(7, 9, [Row(8), Row(9, subject_id=B)])
    assert world.cache.dropped == [("key", B)]


async def test_what_was_read_at_the_known_number_is_not_outdated() -> None:
    world = await started(latest=7)

    assert not world.follower.outdates(principal(), 7)


async def test_what_was_read_before_the_first_look_is_outdated() -> None:
    world = await started(latest=7)

    assert world.follower.outdates(principal(), 6)


@pytest.mark.parametrize(("read_at", "outdated"), [(7, True), (8, False), (9, False)])
async def test_what_a_row_names_is_outdated_if_it_was_read_before(read_at: int, *, outdated: bool) -> None:
    world = await started(latest=7)
    world.add(Row(8, subject_id=A), Row(9, subject_id=B))
    await world.poll()

    assert world.follower.outdates(principal(key_id=A), read_at) == outdated


async def test_more_rows_than_are_remembered_outdate_everything_before_them() -> None:
    world = await started(latest=7)
    for number in range(8, 8 + MAX_RECENT + 1):
        world.follower.take(number - 1, number, [Row(number, subject_id=B)])

    assert world.follower.outdates(principal(), 7)
    assert not world.follower.outdates(principal(), 8)


async def test_after_a_restore_numbers_up_to_the_old_one_are_not_believed() -> None:
    world = await started(latest=100)
    world.latest = 50
    await world.poll()
    world.follower.take(50, 51, [Row(51, subject_id=B)])

    assert world.follower.outdates(principal(), 50)


class Watch:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def acted(self, row: object) -> None:
        self.told.append(row)

    def reached(self, seq: int) -> None:
        self.told.append(seq)


async def test_a_watch_is_told_of_each_row_and_of_the_number_reached() -> None:
    world, watch = World(latest=7), Watch()
    follower = RevocationFollower(latest=world.newest, since=world.since, watch=watch)
    await follower.poll()
    follower.take(7, 8, [Row(8)])

    assert watch.told == [7, Row(8), 8]


@pytest.mark.parametrize("scope", ["key", "tenant"])
async def test_caches_are_told_that_somebody_has_ended(scope: str) -> None:
    world = await started(latest=7)
    world.follower.take(7, 8, [Row(8, scope, usable=False)])

    assert world.cache.dropped[-1] == (f"ended {scope}", A)
