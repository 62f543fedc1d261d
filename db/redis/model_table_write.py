"""The model table as its one writer, discovery, sees it. The app must not import this module."""

from datetime import datetime
from typing import Final

import msgspec
from redis.asyncio import Redis

from db.redis.connection import own_channel
from db.redis.model_table_read import CHANGED_CHANNEL, TABLE_KEY, VERSION_KEY
from domain.model_table import BackendState, ModelTable

# KEYS: table, version. ARGV: version it is based on, new version, table, channel.
_REPLACE: Final = """
if (redis.call('GET', KEYS[2]) or '0') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[3])
redis.call('SET', KEYS[2], ARGV[2])
redis.call('PUBLISH', ARGV[4], ARGV[2])
return 1
"""


class ModelTableWriter:
    """Replaces the table as a whole, value and version in one step."""

    def __init__(self, redis: Redis) -> None:
        self._channel = own_channel(redis, CHANGED_CHANNEL)
        self._replace = redis.register_script(_REPLACE)
        self._encode = msgspec.json.Encoder().encode

    async def replace(
        self, backends: tuple[BackendState, ...], *, based_on: int, now: datetime
    ) -> ModelTable | None:
        """Store and announce a new table unless another writer was faster.

        Parameters
        ----------
        backends
            In the operator's order.
        based_on
            The version whose states were carried forward, 0 for none.
        now
            The time of writing.

        Returns
        -------
        ModelTable | None
            What was stored, None if the table is no longer the one `based_on`.
        """
        # Milliseconds, so that versions also grow across a Redis that lost its data: no reader ever takes a
        # new table for the one it has.
        version = max(based_on + 1, int(now.timestamp() * 1000))
        table = ModelTable(version=version, written_at=now, backends=backends)
        stored = await self._replace(
            keys=[TABLE_KEY, VERSION_KEY],
            args=[based_on, version, self._encode(table), self._channel],
        )
        return table if stored else None
