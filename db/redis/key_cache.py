"""Principals by key digest, shared by all app processes. Never the only copy, never trusted on its own.

Entries carry the revocation sequence number they were read at; the reader decides whether that is recent
enough. A cache that is out of reach or holds nonsense behaves as if it were empty.
"""

from typing import Final

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from domain.values import Principal

TTL_S: Final = 300
_PREFIX: Final = b"nng:key:"
_SCAN_COUNT: Final = 1000

_log = structlog.get_logger()


class CachedPrincipal(msgspec.Struct, frozen=True):
    """One entry."""

    principal: Principal
    seq: int


class RedisKeyCache:
    """The shared key cache in Redis."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(CachedPrincipal).decode

    async def get(self, digest: bytes) -> CachedPrincipal | None:
        """Return the entry of `digest`, or None."""
        try:
            raw = await self._redis.get(_PREFIX + digest)
        except (RedisError, OSError) as exc:
            _log.debug("key_cache_unreachable", error=type(exc).__name__)
            return None
        if not isinstance(raw, bytes):
            return None
        try:
            return self._decode(raw)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None

    async def put(self, digest: bytes, principal: Principal, seq: int) -> None:
        """Store an entry for a few minutes."""
        try:
            await self._redis.set(_PREFIX + digest, self._encode(CachedPrincipal(principal, seq)), ex=TTL_S)
        except (RedisError, OSError) as exc:
            _log.debug("key_cache_unreachable", error=type(exc).__name__)

    async def clear(self) -> int:
        """Forget every entry and return how many there were.

        Raises
        ------
        RedisError, OSError
            Redis is out of reach.
        """
        forgotten = 0
        async for key in self._redis.scan_iter(match=_PREFIX + b"*", count=_SCAN_COUNT):
            forgotten += await self._redis.unlink(key)
        return forgotten
