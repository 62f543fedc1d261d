"""Telling every app process of revocations at once, and hearing back which of them has acted.

The sequence in Postgres stays the truth; this only makes the news faster. `EPOCH_KEY` holds the highest number
that was announced, so that a fanout run twice, or by two workers, announces nothing twice.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from domain.tenants import Revocation

EPOCH_KEY: Final = "nng:revocations:epoch"
CHANNEL: Final = "nng:revocations"
SEEN_KEY: Final = "nng:revocations:seen"

PROCESS_TTL_S: Final = 6.0
"""A process that has not reported for this long counts as gone."""
_LISTEN_S: Final = 5.0

_ANNOUNCE: Final = """
local known = tonumber(redis.call('GET', KEYS[1]) or '-1')
if tonumber(ARGV[1]) <= known then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('PUBLISH', ARGV[3], ARGV[2])
return 1
"""
_REPORT: Final = """
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ':' .. now[1])
return 1
"""
_SEEN: Final = """
local now = tonumber(redis.call('TIME')[1])
local live = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local seq, at = string.match(all[i + 1], '^(-?%d+):(%d+)$')
  if at and now - tonumber(at) <= tonumber(ARGV[1]) then
    live[#live + 1] = all[i]
    live[#live + 1] = seq
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return live
"""


class Announcement(msgspec.Struct, frozen=True):
    """What one message says: everything after `after`, up to and with `seq`.

    `rows` is empty when there was too much to say or Redis had lost its memory: the reader asks Postgres.
    """

    after: int
    seq: int
    rows: tuple[Revocation, ...] = ()


class RevocationAnnouncer:
    """The worker's side. Every method raises `RedisError` or `OSError` when Redis is out of reach."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._script = redis.register_script(_ANNOUNCE)
        self._encode = msgspec.json.Encoder().encode

    async def epoch(self) -> int | None:
        """Return the highest number announced so far, None if Redis knows of none."""
        value = await self._redis.get(EPOCH_KEY)
        return None if value is None else int(value)

    async def announce(self, announcement: Announcement) -> bool:
        """Publish news; return False if somebody already announced that number or a higher one."""
        news = self._encode(announcement)
        return bool(await self._script(keys=[EPOCH_KEY], args=[announcement.seq, news, CHANNEL]))


class RevocationNews:
    """The app's side. `subscriber` is a patient client; every method raises like the announcer's."""

    def __init__(self, subscriber: Redis, *, process_id: str) -> None:
        self._redis = subscriber
        self._process_id = process_id
        self._report = subscriber.register_script(_REPORT)
        self._decode = msgspec.json.Decoder(Announcement).decode

    async def report(self, seq: int) -> None:
        """Say that this process lives and has acted upon everything up to `seq`."""
        await self._report(keys=[SEEN_KEY], args=[self._process_id, seq])

    async def withdraw(self) -> None:
        """Say that this process is going away."""
        await self._redis.hdel(SEEN_KEY, self._process_id)

    @asynccontextmanager
    async def announcements(self) -> AsyncIterator[AsyncIterator[Announcement | None]]:
        """Subscribe; the iterator yields for ever.

        None each time the subscription stands (anew), because news may have been missed before.
        """
        async with self._redis.pubsub() as subscription, aclosing(self._heard(subscription)) as heard:
            await subscription.subscribe(CHANNEL)
            yield heard

    async def _heard(self, subscription: PubSub) -> AsyncGenerator[Announcement | None, None]:
        while True:
            message = await subscription.get_message(timeout=_LISTEN_S)
            if message is None:
                continue
            if message["type"] == "subscribe":
                yield None
            elif message["type"] == "message":
                yield self._decode(message["data"])


async def seen_by(redis: Redis) -> dict[str, int]:
    """Return which live process has acted upon which number."""
    found: Sequence[bytes] = await redis.register_script(_SEEN)(keys=[SEEN_KEY], args=[PROCESS_TTL_S])
    return {found[i].decode(): int(found[i + 1]) for i in range(0, len(found), 2)}
