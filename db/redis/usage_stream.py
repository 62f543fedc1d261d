"""Usage on its way to Postgres: the stream between the holders of journals and `usage.account`.

A holding is one process's hold of one journal file, named `<journal id>.<random>`: a range of record numbers
never means two things within it. One stream entry is one batch of a holding: consecutive settled records.

Beside the stream each holding has a hash of its batches' states, changed in the same atomic step as the
stream: the id of the entry that waits, `done` once its rows are committed, `dead` once it was set aside. So
a holder that lost a reply just asks again (appending is idempotent), and a batch that Redis forgot, for
whatever reason, is missing from the hash.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, cast

import anyio
import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError
from redis.typing import EncodableT

STREAM: Final = "nng:usage"
WAITING: Final = "nng:usage:waiting"
DEAD: Final = "nng:usage:dead"
_HOLDING_PREFIX: Final = "nng:usage:holding:"
_HOLDING_TTL_S: Final = 86_400
_DEAD_MAX_ENTRIES: Final = 1_000

# KEYS: stream, waiting, holding. ARGV: range, count, most records that may wait, ttl, holding, payload.
_APPEND: Final = """
local known = redis.call('HGET', KEYS[3], ARGV[1])
if known then return 1 end
local waiting = 0
if redis.call('XLEN', KEYS[1]) > 0 then waiting = tonumber(redis.call('GET', KEYS[2]) or '0') end
if waiting > 0 and waiting + tonumber(ARGV[2]) > tonumber(ARGV[3]) then return 0 end
local id = redis.call('XADD', KEYS[1], '*',
  'holding', ARGV[5], 'range', ARGV[1], 'count', ARGV[2], 'payload', ARGV[6])
redis.call('SET', KEYS[2], waiting + tonumber(ARGV[2]))
redis.call('HSET', KEYS[3], ARGV[1], id)
redis.call('EXPIRE', KEYS[3], ARGV[4])
return 1
"""

# KEYS: stream, holding. ARGV: ttl, number of ranges to forget, those ranges, ranges to look up in the stream.
_STATES: Final = """
local forget = tonumber(ARGV[2])
for i = 3, #ARGV do
  if i - 2 <= forget then
    redis.call('HDEL', KEYS[2], ARGV[i])
  else
    local id = redis.call('HGET', KEYS[2], ARGV[i])
    if id and id ~= 'done' and id ~= 'dead' and #redis.call('XRANGE', KEYS[1], id, id) == 0 then
      redis.call('HDEL', KEYS[2], ARGV[i])
    end
  end
end
redis.call('EXPIRE', KEYS[2], ARGV[1])
return redis.call('HGETALL', KEYS[2])
"""

# KEYS: stream, waiting, dead[, holding].
# ARGV: id, count, range, state, ttl, most dead entries, holding, reason, dead payload.
_FINISH: Final = """
if redis.call('XDEL', KEYS[1], ARGV[1]) == 1 then
  if redis.call('XLEN', KEYS[1]) == 0 then
    redis.call('SET', KEYS[2], 0)
  else
    redis.call('DECRBY', KEYS[2], ARGV[2])
  end
  if ARGV[4] == 'dead' then
    redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[6], '*', 'holding', ARGV[7], 'range', ARGV[3],
      'reason', ARGV[8], 'payload', ARGV[9])
  end
end
if KEYS[4] then
  redis.call('HSET', KEYS[4], ARGV[3], ARGV[4])
  redis.call('EXPIRE', KEYS[4], ARGV[5])
end
return 1
"""


class UsageStreamUnavailable(Exception):  # noqa: N818 - reads as what happened
    """Redis did not do what was asked; whether it happened is unknown and does not matter: ask again."""


class BatchState(StrEnum):
    """What Redis knows of a batch that was appended."""

    WAITING = "waiting"
    DONE = "done"
    DEAD = "dead"


class BatchRange(msgspec.Struct, frozen=True, order=True):
    """The numbers of a batch's first and last record within its holding."""

    first: int
    last: int

    @property
    def count(self) -> int:
        """How many records the batch has."""
        return self.last - self.first + 1

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


class StreamEntry(msgspec.Struct, frozen=True):
    """One batch as the worker finds it. `payload` is a msgpack array of usage records.

    `holding` and `range` are None if the entry was not written by a holder.
    """

    id: bytes
    holding: str | None
    range: BatchRange | None
    payload: bytes


class Backlog(msgspec.Struct, frozen=True):
    """What waits in Redis: batches, the records in them, and batches set aside."""

    entries: int
    records: int
    dead_entries: int


class HolderStream:
    """The app's side.

    Parameters
    ----------
    redis
        A client that returns bytes.
    max_records
        How many records may wait in the stream before appending pauses.
    timeout_s
        How long one question may take. It is off the hot path, so this is longer than for limits.
    """

    def __init__(self, redis: Redis, *, max_records: int, timeout_s: float = 2.0) -> None:
        self._max_records = max_records
        self._timeout_s = timeout_s
        self._append = redis.register_script(_APPEND)
        self._states = redis.register_script(_STATES)

    async def append(self, holding: str, batch: BatchRange, records: Sequence[bytes]) -> bool:
        """Put a batch of encoded records into the stream unless it is there or done already.

        Returns
        -------
        bool
            False if too many records wait already; nothing was written then.

        Raises
        ------
        UsageStreamUnavailable
            Redis failed; calling again is safe.
        """
        try:
            with anyio.fail_after(self._timeout_s):
                appended = await self._append(
                    keys=[STREAM, WAITING, _HOLDING_PREFIX + holding],
                    args=[
                        str(batch),
                        batch.count,
                        self._max_records,
                        _HOLDING_TTL_S,
                        holding,
                        pack_array(records),
                    ],
                )
        except (RedisError, OSError) as exc:
            raise UsageStreamUnavailable(type(exc).__name__) from exc
        return bool(appended)

    async def states(
        self, holding: str, *, forget: Sequence[BatchRange] = (), doubted: Sequence[BatchRange] = ()
    ) -> dict[BatchRange, BatchState]:
        """Return what Redis knows of a holding's batches. One it lacks was lost: append it again.

        Parameters
        ----------
        holding
            Whose batches.
        forget
            Batches the holder has freed; Redis need not remember them.
        doubted
            Batches that waited for long: each is looked up in the stream itself and forgotten if it left it.

        Raises
        ------
        UsageStreamUnavailable
            Redis failed; calling again is safe.
        """
        try:
            with anyio.fail_after(self._timeout_s):
                reply = await self._states(
                    keys=[STREAM, _HOLDING_PREFIX + holding],
                    args=[_HOLDING_TTL_S, len(forget), *map(str, forget), *map(str, doubted)],
                )
        except (RedisError, OSError) as exc:
            raise UsageStreamUnavailable(type(exc).__name__) from exc
        fields = cast("list[bytes]", reply)
        return {
            batch: _STATES_BY_MARK.get(mark, BatchState.WAITING)
            for field, mark in zip(fields[::2], fields[1::2], strict=True)
            if (batch := parse_range(field)) is not None
        }


class AccountingStream:
    """The worker's side. `redis` is a client that returns bytes."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._finish = redis.register_script(_FINISH)

    async def oldest(self, count: int) -> list[StreamEntry]:
        """Return up to `count` batches, oldest first.

        Raises
        ------
        UsageStreamUnavailable
            Redis failed.
        """
        try:
            found = await self._redis.xrange(STREAM, count=count)
        except (RedisError, OSError) as exc:
            raise UsageStreamUnavailable(type(exc).__name__) from exc
        return [parse_entry(entry_id, fields) for entry_id, fields in cast("list[Any]", found)]

    async def finish(self, entry: StreamEntry) -> None:
        """Publish that a batch's rows are committed and take it out of the stream, in one step. Repeatable.

        Raises
        ------
        UsageStreamUnavailable
            Redis failed; calling again is safe.
        """
        await self._close(entry, BatchState.DONE, reason="", payload=b"")

    async def set_aside(self, entry: StreamEntry, *, reason: str, payload: bytes) -> None:
        """Move what cannot be accounted to the stream of dead entries and tell its holder. Repeatable.

        The rest of the batch must be committed already. `payload` is what could not be accounted.

        Raises
        ------
        UsageStreamUnavailable
            Redis failed; calling again is safe.
        """
        await self._close(entry, BatchState.DEAD, reason=reason, payload=payload)

    async def _close(self, entry: StreamEntry, state: BatchState, *, reason: str, payload: bytes) -> None:
        keys = [STREAM, WAITING, DEAD]
        if entry.holding is not None and entry.range is not None:
            keys.append(_HOLDING_PREFIX + entry.holding)
        args: list[EncodableT] = [
            entry.id,
            entry.range.count if entry.range is not None else 0,
            str(entry.range or ""),
            state,
            _HOLDING_TTL_S,
            _DEAD_MAX_ENTRIES,
            entry.holding or "",
            reason,
            payload,
        ]
        try:
            await self._finish(keys=keys, args=args)
        except (RedisError, OSError) as exc:
            raise UsageStreamUnavailable(type(exc).__name__) from exc


async def read_backlog(redis: Redis) -> Backlog:
    """Return how much usage waits in Redis.

    Raises
    ------
    UsageStreamUnavailable
        Redis failed.
    """
    try:
        entries = await redis.xlen(STREAM)
        records = await redis.get(WAITING)
        dead = await redis.xlen(DEAD)
    except (RedisError, OSError) as exc:
        raise UsageStreamUnavailable(type(exc).__name__) from exc
    return Backlog(entries=entries, records=int(records or 0) if entries else 0, dead_entries=dead)


def pack_array(records: Sequence[bytes]) -> bytes:
    """Return a msgpack array of values that are encoded already."""
    return array_head(len(records)) + b"".join(records)


def array_head(count: int) -> bytes:
    """Return what stands before `count` encoded values to make them a msgpack array."""
    return bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")  # noqa: PLR2004


_STATES_BY_MARK: Final = {b"done": BatchState.DONE, b"dead": BatchState.DEAD}


def parse_range(text: bytes) -> BatchRange | None:
    """Return the range that these bytes name, None if they name none."""
    first, dash, last = text.partition(b"-")
    if not (dash and first.isdigit() and last.isdigit()) or int(first) > int(last):
        return None
    return BatchRange(first=int(first), last=int(last))


def parse_entry(entry_id: bytes, fields: Mapping[bytes, bytes]) -> StreamEntry:
    """Return an entry of the stream, whoever wrote it."""
    holding = fields.get(b"holding", b"").decode("ascii", "replace")
    batch = parse_range(fields.get(b"range", b""))
    written_by_holder = holding.isascii() and holding != "" and batch is not None
    return StreamEntry(
        id=entry_id,
        holding=holding if written_by_holder else None,
        range=batch if written_by_holder else None,
        payload=fields.get(b"payload", b""),
    )
