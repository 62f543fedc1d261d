"""The shared key cache on a real server: what is stored comes back, anything else is as good as nothing."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from db.redis.connection import connect_hot
from db.redis.key_cache import TTL_S, CachedPrincipal, RedisKeyCache
from domain.values import Limits, OptionPolicies, OptionRule, PolicyAction, Principal, Rights
from tests.support.principals import principal
from tests.support.scripted_backend import closed_port

DIGEST = bytes(range(32))
KEY = b"nng:key:" + DIGEST


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_hot(SecretStr(redis_url), timeout_ms=2000) as client:
        yield client


@pytest.fixture
def cache(redis: Redis) -> RedisKeyCache:
    return RedisKeyCache(redis)


FULL = msgspec.structs.replace(
    principal(
        rights=Rights(patterns=("qwen3:*",)),
        key_rights=Rights(allow_all_models=True),
        option_policies=OptionPolicies(
            tenant={"num_predict": OptionRule(PolicyAction.CLAMP, maximum=50, value=20)},
            tenant_grants={"qwen3:*": {"keep_alive": OptionRule(PolicyAction.SET, value="5m")}},
            key={"think": OptionRule(PolicyAction.SET, value=False)},
            key_grants={},
        ),
        tenant_limits=Limits(requests_per_minute=60, tokens_per_month=10**12),
        key_limits=Limits(concurrency=2),
        time_zone="Europe/Berlin",
        path_allowed=True,
    ),
    expires_at=datetime(2030, 1, 1, tzinfo=UTC),
    allowed_networks=("10.0.0.0/8", "2001:db8::/32"),
)


@pytest.mark.parametrize("stored", [principal(), FULL])
async def test_what_is_stored_comes_back(cache: RedisKeyCache, stored: Principal) -> None:
    await cache.put(DIGEST, stored, seq=41)

    assert await cache.get(DIGEST) == CachedPrincipal(stored, 41)


async def test_a_digest_nobody_stored_is_not_there(cache: RedisKeyCache) -> None:
    await cache.put(DIGEST, principal(), seq=1)

    assert await cache.get(DIGEST[::-1]) is None


async def test_entries_leave_by_themselves(cache: RedisKeyCache, redis: Redis) -> None:
    await cache.put(DIGEST, principal(), seq=1)

    assert 0 < await redis.ttl(KEY) <= TTL_S


async def test_the_newest_entry_stands(cache: RedisKeyCache) -> None:
    await cache.put(DIGEST, principal(), seq=1)
    await cache.put(DIGEST, FULL, seq=2)

    assert await cache.get(DIGEST) == CachedPrincipal(FULL, 2)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"\xff",
        b"not msgpack",
        msgspec.msgpack.encode({"principal": None, "seq": 1}),
        msgspec.msgpack.encode({"seq": 1}),
        msgspec.msgpack.encode(CachedPrincipal(FULL, 1)).replace(b"acme", b"\xff\xfe\xfd\xfc"),
        msgspec.msgpack.encode(CachedPrincipal(FULL, 1)).replace(b"inference", b"superuser"),
        msgspec.msgpack.encode(CachedPrincipal(FULL, 1))[:-1],
        msgspec.msgpack.encode(CachedPrincipal(FULL, 1)).replace(b"clamp", b"champ"),
        msgspec.msgpack.encode(CachedPrincipal(principal(), 1)).replace(
            b"option_policies", b"opinion_polices"
        ),
        msgspec.msgpack.encode(CachedPrincipal(principal(), 1)).replace(b"tenant_limits", b"tenant_limbos"),
        msgspec.msgpack.encode(CachedPrincipal(principal(), 1)).replace(b"key_limits", b"key_limbos"),
        msgspec.msgpack.encode(CachedPrincipal(principal(), 1)).replace(b"time_zone", b"time_zany"),
        msgspec.msgpack.encode(CachedPrincipal(principal(), 1)).replace(b"path_allowed", b"path_aloud__"),
        b"\x81\xa1x" + b"\x91" * 100_000,
    ],
)
async def test_t02_nonsense_is_as_good_as_nothing(
    cache: RedisKeyCache, redis: Redis, nonsense: bytes
) -> None:
    await redis.set(KEY, nonsense)

    assert await cache.get(DIGEST) is None


async def test_a_value_of_another_type_is_as_good_as_nothing(cache: RedisKeyCache, redis: Redis) -> None:
    await redis.rpush(KEY, b"x")

    assert await cache.get(DIGEST) is None


async def test_a_server_out_of_reach_is_an_empty_cache() -> None:
    async with (
        closed_port() as port,
        connect_hot(SecretStr(f"redis://127.0.0.1:{port}/0"), timeout_ms=200) as nobody,
    ):
        cache = RedisKeyCache(nobody)

        await cache.put(DIGEST, principal(), seq=1)
        assert await cache.get(DIGEST) is None


async def test_the_key_itself_is_nowhere_in_redis(cache: RedisKeyCache, redis: Redis) -> None:
    await cache.put(DIGEST, principal(), seq=1)

    assert await redis.keys() == [KEY]
    value = await redis.get(KEY)
    assert isinstance(value, bytes)
    assert DIGEST not in value
