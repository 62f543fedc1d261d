"""`list-models`: the model table in a real Valkey."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from redis.asyncio import Redis

from db.redis.model_table_read import TABLE_KEY, ModelTableReader
from db.redis.model_table_write import ModelTableWriter
from domain.model_table import BackendCondition, BackendState, HostedModel, LoadedModel
from tests.app.cli.conftest import CommandLine

NOW = datetime(2031, 5, 30, 12, 0, tzinfo=UTC)


def hosted(name: str) -> HostedModel:
    return HostedModel(name, "ab" * 32, 2_000_000_000, "2031-05-30T12:00:00Z")


STATES = (
    BackendState(
        "second-in-the-alphabet",
        "d1",
        BackendCondition.OK,
        (hosted("llama3.2:latest"), hosted("qwen3:8b")),
        version="0.33.0",
        polled_at=NOW,
        last_ok_at=NOW,
        in_memory=(LoadedModel("qwen3:8b"),),
    ),
    BackendState(
        "first", "d2", BackendCondition.STALE, (hosted("llama3.2:latest"),), error="connect_refused"
    ),
    BackendState("empty", "d3", BackendCondition.UNKNOWN, error="timeout", drained=True),
)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def stores(bare: CommandLine, redis_url: str) -> CommandLine:
    """Give a command line with a Valkey and a database that nobody asks."""
    bare.set(DATABASE_URL="postgresql://u:p@127.0.0.1:1/x", REDIS_URL=redis_url)
    return bare


@pytest.fixture
async def table(redis: Redis) -> None:
    await ModelTableWriter(redis).replace(STATES, based_on=0, now=NOW)


@pytest.mark.usefixtures("table")
async def test_models_are_grouped_by_backend_in_the_operator_s_order(stores: CommandLine) -> None:
    backends = (await stores.good("list-models", "--json")).json["backends"]

    assert [(each["name"], [model["name"] for model in each["models"]]) for each in backends] == [
        ("second-in-the-alphabet", ["llama3.2:latest", "qwen3:8b"]),
        ("first", ["llama3.2:latest"]),
        ("empty", []),
    ]


@pytest.mark.usefixtures("table")
async def test_the_union_and_the_table_s_entries_and_bytes_are_told(
    stores: CommandLine, redis: Redis
) -> None:
    listed = (await stores.good("list-models", "--json")).json
    plain = (await stores.good("list-models")).out

    size = await redis.strlen(TABLE_KEY)
    assert listed["union_count"] == 2
    assert (listed["table"]["entries"], listed["table"]["bytes"]) == (3, size)
    assert f"2 different models on 3 backends. Model table in Redis: 3 entries, {size:,} bytes" in plain


@pytest.mark.usefixtures("table")
async def test_conditions_and_loaded_models_are_shown(stores: CommandLine) -> None:
    lines = (await stores.good("list-models")).out.splitlines()

    assert lines[2].split() == ["qwen3:8b", "2.0", "GB", "yes"]
    assert "stale (connect_refused)" in lines[3]
    assert "unknown (timeout), drained" in lines[4]


async def test_without_a_table_it_says_who_writes_it(stores: CommandLine) -> None:
    outcome = await stores("list-models")

    assert outcome.code == 1
    assert "worker" in outcome.refusal


async def test_a_value_of_somebody_else_is_told_as_such(stores: CommandLine, redis: Redis) -> None:
    await redis.set(TABLE_KEY, b"{}")

    outcome = await stores("list-models")

    assert outcome.code == 1
    assert "another release or program" in outcome.refusal
    assert await ModelTableReader(redis).read_version() is None


async def test_a_redis_out_of_reach_is_told_without_its_password(stores: CommandLine) -> None:
    stores.set(REDIS_URL="redis://:testpassword@127.0.0.1:1/0")

    outcome = await stores("list-models")

    assert outcome.code == 1
    assert outcome.refusal == "Redis at 127.0.0.1:1 cannot be used: connection refused."


async def test_a_wrong_password_is_told_as_such(stores: CommandLine, redis_url: str) -> None:
    host = redis_url.rpartition("@")[2]
    stores.set(REDIS_URL=f"redis://:canary@{host}")

    outcome = await stores("list-models")

    assert outcome.code == 1
    assert "refused the password" in outcome.refusal
    assert "canary" not in outcome.refusal
