"""The model table as readers see it: one snapshot value, its version beside it, and a message per change."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Final

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from db.redis.connection import own_channel
from domain.model_table import ModelTable

TABLE_KEY: Final = "nng:models"
VERSION_KEY: Final = "nng:models:version"
CHANGED_CHANNEL: Final = "nng:models:changed"

# A subscriber asks this often whether the connection still lives.
_LISTEN_S: Final = 5.0

_decode = msgspec.json.Decoder(ModelTable).decode


class ModelTableReader:
    """Reads the table. `redis` returns bytes; `subscriber` is a patient client for the long waits.

    Every method raises `redis.exceptions.RedisError` or `OSError` when Redis is out of reach.
    """

    def __init__(self, redis: Redis, *, subscriber: Redis | None = None) -> None:
        self._redis = redis
        self._subscriber = subscriber or redis

    async def read_version(self) -> int | None:
        """Return the current version, None if no table was ever written."""
        version = await self._redis.get(VERSION_KEY)
        return int(version) if version is not None else None

    async def read_table(self) -> ModelTable | None:
        """Return the current table, None if none was ever written.

        Raises
        ------
        msgspec.MsgspecError
            The value is not a model table: somebody else wrote it.
        """
        value = await self._redis.get(TABLE_KEY)
        return _decode(value) if isinstance(value, bytes) else None

    async def size_bytes(self) -> int:
        """Return how many bytes the table takes in Redis, 0 if none was ever written."""
        return int(await self._redis.strlen(TABLE_KEY))

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[AsyncIterator[int]]:
        """Subscribe; the iterator yields the version that each message announces, for ever.

        Each time the subscription stands it also yields the version then current (0 without a table), so
        that a change made while connecting is not missed.
        """
        async with (
            self._subscriber.pubsub() as subscription,
            aclosing(self._versions(subscription)) as versions,
        ):
            await subscription.subscribe(own_channel(self._subscriber, CHANGED_CHANNEL))
            yield versions

    async def _versions(self, subscription: PubSub) -> AsyncGenerator[int, None]:
        while True:
            message = await subscription.get_message(timeout=_LISTEN_S)
            if message is None:
                continue
            if message["type"] == "subscribe":
                yield await self.read_version() or 0
            elif message["type"] == "message":
                yield int(message["data"])
