"""Places at backends counted in Redis, and one line for each model, over all processes.

A backend with `max_in_flight` has so many places for each model. Whoever finds none waits in the model's line, where
a freed place goes to the first that can use it. A process speaks for all its requests at once, and always says
everything: what it holds and who of its own waits (`places.lua`).
"""

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from enum import Enum
from pathlib import Path
from typing import Final, cast

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from db.redis.connection import own_channel
from db.redis.multiplex import MultiplexedRedis, RedisScript

CHANNEL: Final = "nng:places"

_SCRIPT: Final = RedisScript(Path(__file__).with_name("places.lua").read_text(encoding="utf-8"))
_LISTEN_S: Final = 5.0


class Verdict(Enum):
    """What follows for one ticket."""

    PLACE = "place"
    """It has a place at the backend that the answer names."""
    WAIT = "wait"
    """It stands in line."""
    PASS = "pass"  # noqa: S105 # nosec B105 - no password
    """There is none, and it did not want to wait."""
    FULL = "full"
    """There is none, and too many wait already."""


class Wanted(msgspec.Struct, frozen=True, array_like=True):
    """A ticket: one request that wants a place.

    `number` is its own within its process. `arrival` is what the first answer said, 0 before. `stays` says that it
    would wait; `backends` are those it would take, the best first.
    """

    number: int
    arrival: int
    stays: bool
    backends: tuple[str, ...]


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What follows for the ticket of this number. `arrival` is its place in the order of arrival."""

    number: int
    verdict: Verdict
    arrival: int
    backend: str


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Answer]).decode


class PlaceStore:
    """What one process says to Redis about its places.

    Parameters
    ----------
    process_id
        The name under which others know its places, and under which it hears (`PlaceNews`).
    channel
        `own_channel` of `CHANNEL`.
    """

    def __init__(self, redis: MultiplexedRedis, *, process_id: str, channel: str) -> None:
        self._redis = redis
        self._process_id = process_id
        self._channel = channel
        self._seq = itertools.count(1)

    async def say(
        self,
        model: str,
        *,
        held: Mapping[str, int],
        caps: Mapping[str, int],
        wanted: Sequence[Wanted],
        most_waiting: int,
        recall_s: float,
    ) -> list[Answer]:
        """Say all there is to say about one model, and return what follows for each ticket.

        Wait for the answer before speaking of the same model again: a place given by it counts as held from now on,
        and is given back by the first word that leaves it out.

        Parameters
        ----------
        held
            How many places this process holds at each backend.
        caps
            How many places there are, for each backend that a ticket names.
        wanted
            Every ticket that waits, also those that were there before: others leave the line.
        most_waiting
            A new ticket is refused where so many wait before it.
        recall_s
            How long all others may need to say again what they hold, if it turns out that Redis does not know.

        Raises
        ------
        RedisError
            Redis cannot answer; whether it heard is not known.
        """
        said = (
            self._process_id,
            next(self._seq),
            int(recall_s * 1e6),
            most_waiting,
            model,
            held,
            caps,
            wanted,
        )
        answer = await self._redis.run(_SCRIPT, (places_key(model),), _encode(said), self._channel)
        return _decode(cast("bytes", answer))


class PlaceNews:
    """Where a process hears that it should speak. `subscriber` is a patient client."""

    def __init__(self, subscriber: Redis, *, process_id: str) -> None:
        self._redis = subscriber
        self._process_id = process_id

    @asynccontextmanager
    async def heard(self) -> AsyncIterator[AsyncIterator[str | None]]:
        """Subscribe; the iterator yields for ever the models to speak of.

        None each time the subscription stands (anew), because news may have been missed before. Raises `RedisError`
        or `OSError` when Redis is out of reach.
        """
        channel = own_channel(self._redis, CHANNEL)
        async with self._redis.pubsub() as subscription, aclosing(_models(subscription)) as models:
            await subscription.subscribe(channel, f"{channel}:{self._process_id}")
            yield models


async def _models(subscription: PubSub) -> AsyncGenerator[str | None, None]:
    while True:
        message = await subscription.get_message(timeout=_LISTEN_S)
        if message is None:
            continue
        if message["type"] == "subscribe":
            yield None
        elif message["type"] == "message":
            yield message["data"].decode()


def places_key(model: str) -> str:
    """Return the key of a model's places. Canonical names hold no brace, so that the hash tag is the whole name."""
    return f"nng:{{m:{model}}}:places"
