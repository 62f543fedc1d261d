"""Where every app process says what it has to do with each backend, for operators who look at all of them at once."""

from collections.abc import Sequence
from typing import Final

import msgspec
from redis.asyncio import Redis

KEY: Final = "nng:backends:seen"
PROCESS_TTL_S: Final = 6
"""A process that has not reported for this long counts as gone."""

_REPORT: Final = """
redis.call('HSET', KEYS[1], ARGV[1], redis.call('TIME')[1] .. ':' .. ARGV[2])
return 1
"""
_SEEN: Final = """
local now = tonumber(redis.call('TIME')[1])
local live = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local at, report = string.match(all[i + 1], '^(%d+):(.*)$')
  if at and now - tonumber(at) <= tonumber(ARGV[1]) then
    live[#live + 1] = report
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return live
"""


class BackendReport(msgspec.Struct, frozen=True):
    """What one process says: by backend how many of its requests are there, which it leaves out, which are drained.

    Backends without a request are left out of `in_flight`.
    """

    in_flight: dict[str, int] = {}
    cooling: tuple[str, ...] = ()
    drained: tuple[str, ...] = ()


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(BackendReport).decode


class BackendBoard:
    """What one process writes. Every method raises `RedisError` or `OSError` when Redis is out of reach."""

    def __init__(self, redis: Redis, *, process_id: str) -> None:
        self._redis = redis
        self._process_id = process_id
        self._script = redis.register_script(_REPORT)

    async def report(self, report: BackendReport) -> None:
        """Replace what this process said before."""
        await self._script(keys=[KEY], args=[self._process_id, _encode(report)])

    async def withdraw(self) -> None:
        """Say that this process is going away."""
        await self._redis.hdel(KEY, self._process_id)


async def reports(redis: Redis) -> tuple[BackendReport, ...]:
    """Return what the live processes say; raises as `BackendBoard` does.

    Raises
    ------
    msgspec.MsgspecError
        One of another release cannot be read.
    """
    found: Sequence[bytes] = await redis.register_script(_SEEN)(keys=[KEY], args=[PROCESS_TTL_S])
    return tuple(_decode(each) for each in found)
