"""Looking at usage on its way, and putting right what a look found: for operators, beside the running gateway."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast

import msgspec
from redis.asyncio import Redis
from redis.typing import EncodableT

from db.redis.usage_stream import DEAD, STREAM, WAITING, StreamEntry, parse_entry

_PAGE: Final = 16
_TRIES: Final = 5

# KEYS: stream, waiting.
_STATE: Final = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
return {redis.call('XLEN', KEYS[1]), last[1] and last[1][1] or '', redis.call('GET', KEYS[2]) or '0'}
"""

# KEYS: stream, waiting. ARGV: entries, id of the last one, the counter as it was read, what it should be.
_CORRECT: Final = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if redis.call('XLEN', KEYS[1]) ~= tonumber(ARGV[1]) or (last[1] and last[1][1] or '') ~= ARGV[2]
    or (redis.call('GET', KEYS[2]) or '0') ~= ARGV[3] then return 0 end
redis.call('SET', KEYS[2], ARGV[4])
return 1
"""


class StreamState(msgspec.Struct, frozen=True):
    """By what a change of the stream is noticed: entries are only appended and deleted."""

    entries: int
    last_id: bytes
    counter: int


class StreamLook(msgspec.Struct, frozen=True):
    """The batches that wait. `state` is None if they changed each time they were read: then nothing is counted."""

    batches: tuple[StreamEntry, ...]
    state: StreamState | None

    @property
    def records(self) -> int:
        """How many records wait, as the counter should say."""
        return sum(batch.range.count for batch in self.batches if batch.range is not None)


class DeadBatch(msgspec.Struct, frozen=True):
    """What the worker set aside because it could not become rows. `payload` is an array of records, if readable."""

    id: bytes
    holding: str
    range: str
    reason: str
    payload: bytes


def appended_at(entry_id: bytes) -> datetime:
    """Return when an entry was appended, by Redis's clock."""
    return datetime.fromtimestamp(int(entry_id.partition(b"-")[0]) / 1000, UTC)


class UsageStreamLook:
    """Reads the stream of usage. `redis` is a client that returns bytes; methods raise `RedisError` if it is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._read_state = redis.register_script(_STATE)
        self._correct = redis.register_script(_CORRECT)

    async def waiting(self) -> StreamLook:
        """Return every batch that waits: whatever is in the stream from the call to the answer."""
        batches: list[StreamEntry] = []
        for _ in range(_TRIES):
            before = await self._state()
            batches = [parse_entry(entry_id, fields) for entry_id, fields in await self._entries(STREAM)]
            if before == await self._state():
                return StreamLook(tuple(batches), before)
        return StreamLook(tuple(batches), None)

    async def dead(self) -> tuple[DeadBatch, ...]:
        """Return every batch that was set aside, oldest first."""
        return tuple(
            DeadBatch(
                id=entry_id,
                holding=fields.get(b"holding", b"").decode("ascii", "replace"),
                range=fields.get(b"range", b"").decode("ascii", "replace"),
                reason=fields.get(b"reason", b"").decode("ascii", "replace"),
                payload=fields.get(b"payload", b""),
            )
            for entry_id, fields in await self._entries(DEAD)
        )

    async def correct(self, look: StreamLook) -> bool:
        """Set the counter to what was counted; return False if the stream has changed since."""
        state = look.state
        if state is None:
            return False
        args: list[EncodableT] = [str(state.entries), state.last_id, str(state.counter), str(look.records)]
        return bool(await self._correct(keys=[STREAM, WAITING], args=args))

    async def drop_dead(self, batch: DeadBatch) -> bool:
        """Take a batch out of those set aside; return False if somebody else has."""
        return bool(await self._redis.xdel(DEAD, batch.id))

    async def _state(self) -> StreamState:
        entries, last_id, counter = await self._read_state(keys=[STREAM, WAITING])
        return StreamState(entries, last_id, int(counter))

    async def _entries(self, stream: str) -> list[tuple[bytes, Mapping[bytes, bytes]]]:
        """Return a stream page by page: nobody waits behind a long answer."""
        found: list[tuple[bytes, Mapping[bytes, bytes]]] = []
        start = "-"
        while True:
            page = cast("Sequence[Any]", await self._redis.xrange(stream, min=start, count=_PAGE))
            found += [(entry_id, fields) for entry_id, fields in page]
            if len(page) < _PAGE:
                return found
            start = f"({found[-1][0].decode()}"
