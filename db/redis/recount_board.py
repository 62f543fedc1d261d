"""Where app processes tell each other what they hold of a tenant, so that one of them can count its limits anew."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, cast
from uuid import uuid4

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from db.redis.connection import own_channel
from domain.recounts import Declaration
from domain.values import TenantId

CHANNEL: Final = "nng:limits:recount"
_KEEP_S: Final = 30
_LISTEN_S: Final = 5.0

_encode = msgspec.msgpack.Encoder().encode
_decode_declaration = msgspec.msgpack.Decoder(Declaration).decode


class RecountCall(msgspec.Struct, frozen=True):
    """One process asks all others what they hold of a tenant."""

    id: str
    tenant_id: TenantId
    by: str


class RecountBoard:
    """What one process asks and answers. Every method raises `RedisError` or `OSError` when Redis is away.

    Parameters
    ----------
    redis
        A patient client.
    process_id
        As in `LimitStore`.
    """

    def __init__(self, redis: Redis, *, process_id: str) -> None:
        self._redis = redis
        self._process_id = process_id
        self._channel = own_channel(redis, CHANNEL)

    def new_call(self, tenant_id: TenantId) -> RecountCall:
        """Return a call that nobody has heard yet."""
        return RecountCall(uuid4().hex, tenant_id, self._process_id)

    async def call(self, call: RecountCall) -> None:
        """Ask all processes that listen. Asking again reaches those that did not listen before."""
        await self._redis.publish(self._channel, _encode(call))

    async def declare(self, call: RecountCall, declaration: Declaration) -> None:
        """Answer a call, once or again."""
        step: Any = self._redis.pipeline(transaction=False)  # typed as if each command ran at once
        key = _key(call)
        await step.hset(key, self._process_id, _encode(declaration)).expire(key, _KEEP_S).execute()

    async def who_declared(self, call: RecountCall) -> frozenset[str]:
        """Return the processes that have answered."""
        found = cast("list[bytes]", await self._redis.hkeys(_key(call)))
        return frozenset(name.decode() for name in found)

    async def declarations(self, call: RecountCall) -> dict[str, Declaration]:
        """Return the answers by process.

        Raises
        ------
        msgspec.MsgspecError
            One of another release cannot be read.
        """
        found = cast("dict[bytes, bytes]", await self._redis.hgetall(_key(call)))
        return {name.decode(): _decode_declaration(value) for name, value in found.items()}

    async def discard(self, call: RecountCall) -> None:
        """Forget a call whose answers were read."""
        await self._redis.delete(_key(call))

    @asynccontextmanager
    async def calls(self) -> AsyncIterator[AsyncIterator[RecountCall]]:
        """Subscribe; the iterator yields the calls of other processes for ever."""
        async with self._redis.pubsub() as subscription, aclosing(self._heard(subscription)) as heard:
            await subscription.subscribe(self._channel)
            yield heard

    async def _heard(self, subscription: PubSub) -> AsyncGenerator[RecountCall, None]:
        decode = msgspec.msgpack.Decoder(RecountCall).decode
        while True:
            message = await subscription.get_message(timeout=_LISTEN_S)
            if message is None or message["type"] != "message":
                continue
            call = decode(message["data"])
            if call.by != self._process_id:
                yield call


def _key(call: RecountCall) -> str:
    return f"nng:limits:recount:{call.id}"
