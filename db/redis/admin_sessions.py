"""The sessions of operators in browsers. Redis alone has them: losing one means logging in again."""

from collections.abc import Sequence
from typing import Final

import msgspec
from redis.asyncio import Redis

_PREFIX: Final = b"nng:admin-session:"


class AdminSession(msgspec.Struct, frozen=True):
    """Which key opened a session: how logs name it, and its digests under the peppers of that moment."""

    prefix: str
    key_digests: tuple[bytes, ...]


class AdminSessions:
    """Sessions by the digest of their id. Every method raises `RedisError` or `OSError` when Redis is out of reach.

    The digest is made with the key pepper. Whoever reads Redis learns no session's id from it, and whoever writes
    there cannot make up a session.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis: Final = redis
        self._decode: Final = msgspec.msgpack.Decoder(AdminSession).decode

    async def open(self, digest: bytes, session: AdminSession, *, ttl_s: int) -> None:
        """Keep a session for `ttl_s` seconds, whatever happens to it meanwhile."""
        await self._redis.set(_PREFIX + digest, msgspec.msgpack.encode(session), ex=ttl_s)

    async def find(self, digests: Sequence[bytes]) -> AdminSession | None:
        """Return the session with one of these digests, None if there is none."""
        for raw in await self._redis.mget([_PREFIX + digest for digest in digests]):
            if isinstance(raw, bytes):
                try:
                    return self._decode(raw)
                except (msgspec.MsgspecError, ValueError):
                    return None
        return None

    async def close(self, digests: Sequence[bytes]) -> None:
        """Forget a session."""
        await self._redis.unlink(*(_PREFIX + digest for digest in digests))
