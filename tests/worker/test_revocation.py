"""The fanout on real stores: everything in the sequence becomes news, once, in order, whatever happened before."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from db.redis.connection import connect_patient
from db.redis.revocation_channel import EPOCH_KEY, Announcement, RevocationAnnouncer, RevocationNews
from db.revocations import Revocations
from domain.tenants import Revocation
from tests.support.rows import ONE, TWO, add_acme
from worker.jobs.revocation import MAX_ROWS, Fanout

PATIENCE_S = 10
FLIP = "UPDATE api_keys SET path_allowed = NOT path_allowed WHERE id = $1"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_patient(SecretStr(redis_url)) as client:
        yield client


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    await add_acme(connection)
    yield connection
    await connection.close()


@pytest.fixture
def fanout(engine: AsyncEngine, redis: Redis) -> Fanout:
    sequence = Revocations(engine)
    return Fanout(latest=sequence.latest_seq, since=sequence.since, announcer=RevocationAnnouncer(redis))


@asynccontextmanager
async def heard(redis: Redis) -> AsyncIterator[AsyncIterator[Announcement | None]]:
    """Give what is announced from now on."""
    async with asyncio.timeout(PATIENCE_S), RevocationNews(redis, process_id="a").announcements() as news:
        assert await anext(news) is None
        yield news


async def newest(sql: asyncpg.Connection) -> int:
    return int(await sql.fetchval("SELECT max(seq) FROM revocations"))


async def test_a_new_row_is_announced_with_what_it_names(
    fanout: Fanout, redis: Redis, sql: asyncpg.Connection
) -> None:
    before = await fanout.run()
    async with heard(redis) as news:
        await sql.execute(FLIP, ONE)
        await fanout.run()
        told = await anext(news)

    assert told is not None
    assert (told.after, told.seq, [row.subject_id for row in told.rows]) == (before, before + 1, [ONE])


async def test_nothing_new_is_no_news(fanout: Fanout, redis: Redis, sql: asyncpg.Connection) -> None:
    await fanout.run()
    async with heard(redis) as news:
        await fanout.run()
        await sql.execute(FLIP, ONE)
        await fanout.run()
        told = await anext(news)

    assert told is not None
    assert told.seq == await newest(sql)


async def test_a_redis_without_memory_has_everybody_ask_postgres(
    fanout: Fanout, redis: Redis, sql: asyncpg.Connection
) -> None:
    await fanout.run()
    await redis.flushall()
    async with heard(redis) as news:
        await fanout.run()

        assert await anext(news) == Announcement(after=await newest(sql), seq=await newest(sql))


async def test_after_a_restore_everybody_asks_postgres_and_the_epoch_goes_back(
    fanout: Fanout, redis: Redis, sql: asyncpg.Connection
) -> None:
    await redis.set(EPOCH_KEY, 1000)
    async with heard(redis) as news:
        assert await fanout.run() == await newest(sql)
        told = await anext(news)

    assert told is not None
    assert told.rows == ()


async def test_numbers_that_are_missing_have_everybody_ask_postgres(
    fanout: Fanout, redis: Redis, sql: asyncpg.Connection
) -> None:
    await fanout.run()
    await sql.execute("INSERT INTO revocations (seq, scope, id) VALUES (5000, 'tenant', $1)", ONE)
    async with heard(redis) as news:
        await fanout.run()
        told = await anext(news)

    assert told is not None
    assert (told.seq, told.rows) == (5000, ())


async def test_more_rows_than_fit_go_out_in_several_messages(
    fanout: Fanout, redis: Redis, sql: asyncpg.Connection
) -> None:
    before = await fanout.run()
    many = MAX_ROWS + 5
    await sql.execute(
        "INSERT INTO revocations (seq, scope, id)"
        " SELECT $1::bigint + n, 'key', gen_random_uuid() FROM generate_series(1, $2::int) AS n",
        before,
        many,
    )
    async with heard(redis) as news:
        await fanout.run()
        first, second = await anext(news), await anext(news)

    assert first is not None
    assert second is not None
    assert (len(first.rows), len(second.rows), second.seq) == (MAX_ROWS, 5, before + many)


async def test_two_workers_at_once_announce_each_number_once(
    fanout: Fanout, engine: AsyncEngine, redis: Redis, sql: asyncpg.Connection
) -> None:
    sequence = Revocations(engine)
    other = Fanout(latest=sequence.latest_seq, since=sequence.since, announcer=RevocationAnnouncer(redis))
    before = await fanout.run()
    numbers: list[int] = []
    async with heard(redis) as news:
        for key in (ONE, TWO) * 10:
            await sql.execute(FLIP, key)
            await asyncio.gather(fanout.run(), other.run(), fanout.run(), other.run())
        while len(numbers) < 20:
            told = await anext(news)
            assert told is not None
            numbers.extend(row.seq for row in told.rows)

    assert numbers == list(range(before + 1, before + 21))


async def test_what_is_committed_during_a_run_is_announced_by_it(
    engine: AsyncEngine, redis: Redis, sql: asyncpg.Connection
) -> None:
    sequence = Revocations(engine)
    left = [ONE, TWO]

    async def since(seq: int, limit: int) -> Sequence[Revocation]:
        rows = await sequence.since(seq, limit)
        if left:
            await sql.execute(FLIP, left.pop())
        return rows

    fanout = Fanout(latest=sequence.latest_seq, since=since, announcer=RevocationAnnouncer(redis))
    await redis.set(EPOCH_KEY, 0)

    assert await fanout.run() == await newest(sql)


async def test_the_record_is_written_before_anybody_hears(
    engine: AsyncEngine, redis: Redis, sql: asyncpg.Connection
) -> None:
    sequence = Revocations(engine)
    announcer = RevocationAnnouncer(redis)
    epochs: list[int | None] = []

    async def record() -> None:
        epochs.append(await announcer.epoch())

    await redis.set(EPOCH_KEY, 0)
    await Fanout(latest=sequence.latest_seq, since=sequence.since, announcer=announcer, record=record).run()

    assert epochs == [0, await newest(sql)]


async def test_a_record_that_cannot_be_written_fails_the_run_but_not_the_news(
    engine: AsyncEngine, redis: Redis, sql: asyncpg.Connection
) -> None:
    sequence = Revocations(engine)
    announcer = RevocationAnnouncer(redis)

    async def record() -> None:
        raise OSError("disk full")

    fanout = Fanout(latest=sequence.latest_seq, since=sequence.since, announcer=announcer, record=record)
    with pytest.raises(OSError, match="disk full"):
        await fanout.run()

    assert await announcer.epoch() == await newest(sql)


async def test_a_wrong_guess_at_the_epoch_announces_nothing_twice(
    fanout: Fanout, engine: AsyncEngine, redis: Redis, sql: asyncpg.Connection
) -> None:
    """Two workers take turns: each believes that its own announcement was the last."""
    sequence = Revocations(engine)
    other = Fanout(latest=sequence.latest_seq, since=sequence.since, announcer=RevocationAnnouncer(redis))
    before = await fanout.run()
    numbers: list[int] = []
    async with heard(redis) as news:
        for turn in (other, fanout, other, fanout):
            await sql.execute(FLIP, ONE)
            await turn.run()
            told = await anext(news)
            assert told is not None
            numbers += [row.seq for row in told.rows]

    assert numbers == [before + 1, before + 2, before + 3, before + 4]


async def test_a_run_that_finds_nothing_still_sees_that_redis_lost_its_memory(
    fanout: Fanout, redis: Redis, sql: asyncpg.Connection
) -> None:
    await fanout.run()
    await redis.delete(EPOCH_KEY)

    assert await fanout.run() == await newest(sql)
    assert await RevocationAnnouncer(redis).epoch() == await newest(sql)
