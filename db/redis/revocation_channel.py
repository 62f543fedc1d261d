"""Telling every app process of revocations at once, and hearing back which of them has acted.

The sequence in Postgres stays the truth; this only makes the news faster. `EPOCH_KEY` holds the number that was
announced last. It is only replaced by whoever has read it, so that a fanout run twice, or by two workers,
announces nothing twice and never steps back behind another's news.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final, cast

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from db.redis.connection import own_channel
from domain.tenants import Revocation

EPOCH_KEY: Final = "nng:revocations:epoch"
CHANNEL: Final = "nng:revocations"
SEEN_KEY: Final = "nng:revocations:seen"
SEEN_SINCE_KEY: Final = "nng:revocations:seen-since"
LOOKS_KEY: Final = "nng:revocations:looks"

PROCESS_TTL_S: Final = 6.0
"""A process that has not reported for this long counts as gone."""
LOOKS_APART_S: Final = 2.5
"""In this time every process that lives reports."""
LATELY_S: Final = 4.0
"""No report of a process that lives is as old as this, unless Redis was away."""
_LISTEN_S: Final = 5.0

_ANNOUNCE: Final = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('PUBLISH', ARGV[4], ARGV[3])
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
_REMEMBERS: Final = """
local now = tonumber(redis.call('TIME')[1])
redis.call('SET', KEYS[1], now, 'NX')
return now - tonumber(redis.call('GET', KEYS[1]))
"""
# KEYS: the looks, the reports. ARGV: how far apart two looks are, how old the report of somebody heard of lately is.
# Answers who had been heard of lately at the look before this one.
_LOOK: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local packed = redis.call('GET', KEYS[1])
local looks = packed and cmsgpack.unpack(packed) or {at = 0, last = {}}
if now - looks.at >= tonumber(ARGV[1]) then
  local lately = {}
  local all = redis.call('HGETALL', KEYS[2])
  for i = 1, #all, 2 do
    local at = tonumber(string.match(all[i + 1], ':(%d+)$'))
    if at and math.floor(now) - at <= tonumber(ARGV[2]) then lately[#lately + 1] = all[i] end
  end
  looks = {at = now, last = lately, before = looks.last}
  redis.call('SET', KEYS[1], cmsgpack.pack(looks))
end
return looks.before
"""


class Announcement(msgspec.Struct, frozen=True):
    """What one message says: everything after `after`, up to and with `seq`.

    `rows` is empty where the rows alone would not tell it: there were too many, numbers are missing, Redis had
    lost its memory, or Postgres was restored and went back. The reader then asks Postgres.
    """

    after: int
    seq: int
    rows: tuple[Revocation, ...] = ()


class RevocationAnnouncer:
    """The worker's side. Every method raises `RedisError` or `OSError` when Redis is out of reach."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._script = redis.register_script(_ANNOUNCE)
        self._channel = own_channel(redis, CHANNEL)
        self._encode = msgspec.json.Encoder().encode

    async def epoch(self) -> int | None:
        """Return the highest number announced so far, None if Redis knows of none."""
        return await announced(self._redis)

    async def announce(self, announcement: Announcement, *, instead_of: int | None) -> bool:
        """Publish news while the epoch is still `instead_of`; return False if somebody was quicker."""
        known = "" if instead_of is None else instead_of
        news = self._encode(announcement)
        return bool(await self._script(keys=[EPOCH_KEY], args=[known, announcement.seq, news, self._channel]))


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
            await subscription.subscribe(own_channel(self._redis, CHANNEL))
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


async def announced(redis: Redis) -> int | None:
    """Return the highest number announced so far, None if Redis knows of none."""
    value = await redis.get(EPOCH_KEY)
    return None if value is None else int(value)


async def highest_number(redis: Redis) -> int:
    """Return the highest number that Redis knows of, from the epoch and from every process, gone ones too."""
    epoch = await redis.get(EPOCH_KEY)
    reports = cast("list[bytes]", await redis.hvals(SEEN_KEY))
    return max([int(epoch or 0), *(int(report.partition(b":")[0]) for report in reports)])


async def seen_by(redis: Redis) -> dict[str, int]:
    """Return which live process has acted upon which number."""
    found: Sequence[bytes] = await redis.register_script(_SEEN)(keys=[SEEN_KEY], args=[PROCESS_TTL_S])
    return {found[i].decode(): int(found[i + 1]) for i in range(0, len(found), 2)}


async def certainly_live(redis: Redis) -> frozenset[str] | None:
    """Return the processes that live, None if Redis cannot tell: not long ago it knew of nobody.

    Whoever takes the others for dead must be certain. A Redis that lost its memory, or was away and kept it, hears of
    each process again only when that reports the next time. So whoever was well at the look before counts as living.
    """
    remembers_s: int = await redis.register_script(_REMEMBERS)(keys=[SEEN_SINCE_KEY])
    names = frozenset(await seen_by(redis))
    before: Sequence[bytes] = await redis.register_script(_LOOK)(
        keys=[LOOKS_KEY, SEEN_KEY], args=[LOOKS_APART_S, LATELY_S]
    )
    return names.union(name.decode() for name in before) if remembers_s > PROCESS_TTL_S else None
