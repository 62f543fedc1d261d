"""The connection that scripts run on, and the limits' store on it."""

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from db.redis.limit_recounts import LimitLeases
from db.redis.limits import LimitStore
from db.redis.multiplex import MultiplexedRedis


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[MultiplexedRedis]:
    redis = MultiplexedRedis(SecretStr(redis_url), timeout_s=5)
    yield redis
    await redis.aclose()


@pytest.fixture
def store(redis: MultiplexedRedis) -> LimitStore:
    return LimitStore(redis, process_id="alive")


@pytest.fixture
def leases(redis: MultiplexedRedis) -> LimitLeases:
    return LimitLeases(redis)
