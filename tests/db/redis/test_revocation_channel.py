"""The channel of revocations on a real Valkey: nothing is said twice, and silence is not taken for agreement."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from db.redis.connection import connect_patient
from db.redis.revocation_channel import (
    SEEN_KEY,
    Announcement,
    RevocationAnnouncer,
    RevocationNews,
    highest_number,
    seen_by,
)
from domain.tenants import Revocation, RevocationScope

PATIENCE_S = 10
ROW = Revocation(5, RevocationScope.KEY, UUID(int=1), datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC))


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_patient(SecretStr(redis_url)) as client:
        yield client


@asynccontextmanager
async def subscribed(redis: Redis) -> AsyncIterator[AsyncIterator[Announcement | None]]:
    """Give what is heard from now on; the subscription stands."""
    async with asyncio.timeout(PATIENCE_S), RevocationNews(redis, process_id="a").announcements() as heard:
        assert await anext(heard) is None
        yield heard


async def test_before_the_first_announcement_there_is_no_epoch(redis: Redis) -> None:
    assert await RevocationAnnouncer(redis).epoch() is None


async def test_an_announcement_reaches_a_subscriber_with_its_rows(redis: Redis) -> None:
    news = Announcement(after=4, seq=5, rows=(ROW,))
    async with subscribed(redis) as heard:
        await RevocationAnnouncer(redis).announce(news, instead_of=None)

        assert await anext(heard) == news


async def test_an_announcement_becomes_the_epoch(redis: Redis) -> None:
    announcer = RevocationAnnouncer(redis)

    await announcer.announce(Announcement(after=0, seq=0), instead_of=None)

    assert await announcer.epoch() == 0


@pytest.mark.parametrize("read", [None, 3, 5])
async def test_who_has_read_another_epoch_announces_nothing(redis: Redis, read: int | None) -> None:
    announcer = RevocationAnnouncer(redis)
    await announcer.announce(Announcement(after=0, seq=4), instead_of=None)
    async with subscribed(redis) as heard:
        told = await announcer.announce(Announcement(after=4, seq=6), instead_of=read)
        await announcer.announce(Announcement(after=4, seq=7), instead_of=4)

        assert not told
        assert await anext(heard) == Announcement(after=4, seq=7)


async def test_of_many_announcers_at_once_one_is_heard(redis: Redis) -> None:
    announcer = RevocationAnnouncer(redis)

    told = await asyncio.gather(
        *(announcer.announce(Announcement(after=0, seq=number), instead_of=None) for number in range(50))
    )

    assert sum(told) == 1


async def test_a_subscriber_that_was_cut_off_is_told_that_it_may_have_missed_something(redis: Redis) -> None:
    news = RevocationNews(redis, process_id="a")
    async with asyncio.timeout(PATIENCE_S):
        async with news.announcements() as heard:
            assert await anext(heard) is None
        async with news.announcements() as heard:
            assert await anext(heard) is None


async def test_a_report_says_who_has_acted_upon_what(redis: Redis) -> None:
    await RevocationNews(redis, process_id="host:1:a").report(7)
    await RevocationNews(redis, process_id="host:2:b").report(-1)

    assert await seen_by(redis) == {"host:1:a": 7, "host:2:b": -1}


async def test_who_has_withdrawn_is_not_waited_for(redis: Redis) -> None:
    news = RevocationNews(redis, process_id="a")
    await news.report(7)

    await news.withdraw()

    assert await seen_by(redis) == {}


async def test_who_has_not_reported_for_long_counts_as_gone(redis: Redis) -> None:
    now, _ = await redis.time()
    await redis.hset(SEEN_KEY, mapping={"dead": f"3:{now - 7}", "late": f"4:{now - 5}", "odd": "x"})

    assert await seen_by(redis) == {"late": 4}


async def test_the_highest_number_counts_gone_processes_too(redis: Redis) -> None:
    now, _ = await redis.time()
    await RevocationAnnouncer(redis).announce(Announcement(after=0, seq=4), instead_of=None)
    await redis.hset(SEEN_KEY, mapping={"dead": f"9:{now - 1000}", "live": f"5:{now}"})

    assert await highest_number(redis) == 9


async def test_an_empty_redis_knows_no_number(redis: Redis) -> None:
    assert await highest_number(redis) == 0
