"""What a Redis server says of itself: its clock, and what it does when it is full."""

from datetime import UTC, datetime, timedelta
from typing import Final

from redis.asyncio import Redis

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


async def server_time(redis: Redis) -> datetime:
    """Return the server's time; raises `RedisError` or `OSError`."""
    seconds, microseconds = await redis.time()
    return _EPOCH + timedelta(seconds=int(seconds), microseconds=int(microseconds))


async def eviction_policy(redis: Redis) -> str | None:
    """Return what the server does when its memory is full, None if it does not say; raises as `server_time` does.

    INFO rather than CONFIG, which managed services refuse.
    """
    policy = (await redis.info("memory")).get("maxmemory_policy")
    return str(policy) if policy else None
