"""Asking Redis for what is kept there alone: jobs, and the sessions of the dashboard."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from redis.exceptions import RedisError

from app.admin.errors import RedisAway

_log = structlog.get_logger()


@asynccontextmanager
async def asking_redis() -> AsyncIterator[None]:
    """Tell what cannot be done while Redis is out of reach, and why.

    Raises
    ------
    RedisAway
    """
    try:
        yield
    except (RedisError, OSError) as exc:
        _log.warning("admin_redis_away", error=type(exc).__name__)
        raise RedisAway from exc
