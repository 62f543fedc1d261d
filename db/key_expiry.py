"""Telling the caches of a key whose time has come: a revocation like any other, once for each expiry."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.values import KeyId

# The write itself is the announcement: the trigger on api_keys makes the revocation. What is remembered is which
# expiry was announced, so that a key whose time was extended is announced again when that has passed too.
_ANNOUNCE: Final = text("""
    UPDATE api_keys SET announced_expiry = expires_at
    WHERE status = 'active' AND expires_at <= now() AND announced_expiry IS DISTINCT FROM expires_at
    RETURNING id
""")


async def announce_expired_keys(engine: AsyncEngine) -> tuple[KeyId, ...]:
    """Make a revocation of each key that expired since the last time; return those keys.

    Safe to repeat and to run in several places at once: writers of keys queue up, and the later finds nothing.
    """
    async with engine.begin() as connection:
        return tuple(KeyId(key_id) for key_id in (await connection.execute(_ANNOUNCE)).scalars())
