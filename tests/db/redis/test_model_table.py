"""The model table in Redis: one snapshot, one version, one writer at a time."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from db.redis.connection import connect_patient
from db.redis.model_table_read import TABLE_KEY, ModelTableReader
from db.redis.model_table_write import ModelTableWriter
from domain.model_table import BackendCondition, BackendState, HostedModel, LoadedModel

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
STATE = BackendState(
    "a",
    "digest",
    BackendCondition.OK,
    models=(
        HostedModel("llama3.2:latest", "ab", 7, "2026-01-01T00:00:00Z", {"family": "llama"}, ("tools",)),
    ),
    version="0.33.0",
    last_ok_at=NOW,
    polled_at=NOW,
    in_memory=(LoadedModel("llama3.2:latest", 3, 2, 8192, "2026-01-01T00:00:00Z"),),
)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_patient(SecretStr(redis_url)) as client:
        yield client


async def test_there_is_no_table_before_the_first_is_written(redis: Redis) -> None:
    reader = ModelTableReader(redis)

    assert await reader.read_version() is None
    assert await reader.read_table() is None
    assert await reader.size_bytes() == 0


async def test_what_is_written_is_read(redis: Redis) -> None:
    reader = ModelTableReader(redis)

    written = await ModelTableWriter(redis).replace((STATE,), based_on=0, now=NOW)

    assert written is not None
    assert written.backends == (STATE,)
    assert await reader.read_table() == written
    assert await reader.read_version() == written.version
    assert await reader.size_bytes() > 0


async def test_of_two_writers_on_the_same_base_one_wins(redis: Redis) -> None:
    first, second = ModelTableWriter(redis), ModelTableWriter(redis)

    won = await first.replace((STATE,), based_on=0, now=NOW)
    lost = await second.replace((), based_on=0, now=NOW + timedelta(seconds=1))

    assert won is not None
    assert lost is None
    assert await ModelTableReader(redis).read_table() == won


async def test_versions_grow_even_when_the_clock_goes_back(redis: Redis) -> None:
    writer = ModelTableWriter(redis)
    first = await writer.replace((STATE,), based_on=0, now=NOW)
    assert first

    second = await writer.replace((STATE,), based_on=first.version, now=NOW - timedelta(hours=1))

    assert second
    assert second.version == first.version + 1


async def test_versions_grow_across_a_redis_that_lost_its_data(redis: Redis) -> None:
    writer = ModelTableWriter(redis)
    first = await writer.replace((STATE,), based_on=0, now=NOW)
    await redis.flushdb()

    second = await writer.replace((STATE,), based_on=0, now=NOW + timedelta(seconds=15))

    assert first
    assert second
    assert second.version > first.version


async def test_a_subscriber_hears_the_version_it_begins_with_and_every_change(redis: Redis) -> None:
    writer = ModelTableWriter(redis)
    first = await writer.replace((STATE,), based_on=0, now=NOW)
    assert first

    async with ModelTableReader(redis).changes() as changes:
        begun_with = await anext(changes)
        second = await writer.replace((STATE,), based_on=first.version, now=NOW + timedelta(seconds=15))
        heard = await anext(changes)

    assert begun_with == first.version
    assert second
    assert heard == second.version


async def test_a_foreign_value_is_refused(redis: Redis) -> None:
    await redis.set(TABLE_KEY, b'{"version": "x"}')

    with pytest.raises(msgspec.MsgspecError):
        await ModelTableReader(redis).read_table()
