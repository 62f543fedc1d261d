"""News on a real Valkey: acted upon at once, and confirmed only when the streams are cut."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from app.gateway.exchanges import Exchanges
from app.gateway.recheck import Recheck
from app.gateway.revocation_news import RevocationHearer
from app.gateway.revocations import RevocationFollower
from db.redis.connection import connect_patient
from db.redis.revocation_channel import Announcement, RevocationAnnouncer, RevocationNews, seen_by
from db.tasks import end
from domain.tenants import Revocation, RevocationScope
from tests.support.clock import Clock

PATIENCE_S = 10
NAME = "host:1:a"


class SlowRecheck(Recheck):
    """Has something to cut until told otherwise."""

    def __init__(self) -> None:
        super().__init__(Exchanges(write_timeout_s=30, heartbeat_s=15), self._nobody)
        self.cut = asyncio.Event()
        self.cut.set()

    async def _nobody(self, _: object) -> None:
        """Object to nothing."""

    async def done(self) -> None:
        await self.cut.wait()


class World:
    """A follower at number 5 that hears news, and the rows of its Postgres."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.rows: list[Revocation] = [row(number) for number in range(1, 6)]
        self.asked = 0
        self.recheck = SlowRecheck()
        self.follower = RevocationFollower(latest=self._latest, since=self._since)
        news = RevocationNews(redis, process_id=NAME)
        self.hearer = RevocationHearer(news, self.follower, self.recheck)

    async def _latest(self) -> int:
        self.asked += 1
        return self.rows[-1].seq

    async def _since(self, seq: int, limit: int) -> Sequence[Revocation]:
        return [each for each in self.rows if each.seq > seq][:limit]

    async def announce(self, *rows: Revocation, after: int, seq: int) -> None:
        epoch = await RevocationAnnouncer(self.redis).epoch()
        assert await RevocationAnnouncer(self.redis).announce(
            Announcement(after=after, seq=seq, rows=rows), instead_of=epoch
        )

    async def at(self, seq: int) -> None:
        """Return once the follower is there."""
        async with asyncio.timeout(PATIENCE_S):
            while self.follower.seq != seq:  # noqa: ASYNC110 - the follower has no event
                await asyncio.sleep(0.001)

    async def confirmed(self, seq: int) -> None:
        """Return once that was confirmed."""
        async with asyncio.timeout(PATIENCE_S):
            while (await seen_by(self.redis)).get(NAME) != seq:  # noqa: ASYNC110 - it is written in Redis
                await asyncio.sleep(0.001)


def row(seq: int) -> Revocation:
    return Revocation(seq, RevocationScope.KEY, uuid4(), Clock().today())


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_patient(SecretStr(redis_url)) as client:
        yield client


@pytest.fixture
async def world(redis: Redis) -> AsyncIterator[World]:
    world = World(redis)
    tasks = [asyncio.create_task(world.hearer.hear()), asyncio.create_task(world.hearer.report())]
    await world.at(5)
    await world.confirmed(5)
    yield world
    await end(*tasks)


async def test_a_subscription_that_stands_asks_postgres_what_it_missed(world: World) -> None:
    assert world.asked == 1


async def test_news_that_follow_on_are_taken_without_asking(world: World) -> None:
    await world.announce(row(6), after=5, seq=6)
    await world.at(6)

    assert world.asked == 1


async def test_news_that_skip_something_are_asked_about(world: World) -> None:
    world.rows += [row(6), row(7)]
    await world.announce(world.rows[-1], after=6, seq=7)
    await world.at(7)

    assert world.asked == 2


async def test_a_number_that_went_back_is_asked_about(world: World) -> None:
    del world.rows[3:]
    await world.announce(after=3, seq=3)

    await world.at(3)


async def test_after_a_cut_subscription_nothing_is_missing(world: World) -> None:
    world.rows.append(row(6))
    await world.redis.client_kill_filter(_type="pubsub")

    await world.at(6)


async def test_what_was_acted_upon_is_confirmed(world: World) -> None:
    await world.announce(row(6), after=5, seq=6)

    await world.confirmed(6)


async def test_what_the_process_found_by_itself_is_confirmed_as_well(world: World) -> None:
    world.rows.append(row(6))
    await world.follower.poll()

    await world.confirmed(6)


async def test_nothing_is_confirmed_before_the_streams_are_cut(world: World) -> None:
    world.recheck.cut.clear()
    await world.announce(row(6), after=5, seq=6)
    await world.at(6)
    before = await seen_by(world.redis)
    world.recheck.cut.set()
    await world.confirmed(6)

    assert before == {NAME: 5}


async def test_nonsense_on_the_channel_is_survived(world: World) -> None:
    await world.redis.publish("nng:revocations", b"\xff{")
    await world.announce(row(6), after=5, seq=6)
    world.rows.append(row(6))

    await world.at(6)
