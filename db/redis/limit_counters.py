"""The counters of limits as Redis has them at one instant: read, never changed. `limits_common.lua` explains them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast
from uuid import UUID

import msgspec
from redis.asyncio import Redis

from db.redis.limit_recounts import TENANTS_KEY
from db.redis.limit_script import TENANT_SCOPE, tenant_prefix
from domain.values import KeyId, RequestId, TenantId

TENANT: Final = None
"""The scope of a tenant as a whole, where the scope of one of its keys is the key's id."""

# KEYS: the tenant's prefix. ARGV: the starts of the day and of the month to read.
# Reservations and standings are unpacked here, as they hold keys and ids as bare bytes.
_READ: Final = """
local prefix = KEYS[1]
local time = redis.call('TIME')
local open = {}
local all = redis.call('HGETALL', prefix .. ':open')
for i = 1, #all, 2 do
  local held = cmsgpack.unpack(all[i + 1])
  for _, value in ipairs({all[i], held.process, held.key, string.format('%.0f', held.at),
      string.format('%.0f', held.tokens), string.format('%.0f', held.day), string.format('%.0f', held.month),
      held.swept and '1' or '0'}) do
    open[#open + 1] = value
  end
end
local running = {}
local standings = redis.call('HGETALL', prefix .. ':now')
for i = 1, #standings, 2 do
  local number = standings[i] ~= 'epoch' and select(5, struct.unpack('<ddddd', standings[i + 1])) or 0
  if number > 0 then
    running[#running + 1] = standings[i]
    running[#running + 1] = string.format('%.0f', number)
  end
end
return {
  redis.call('HEXISTS', prefix .. ':now', 'epoch'), time[1], time[2],
  redis.call('HGETALL', prefix .. ':d:' .. ARGV[1]), redis.call('HGETALL', prefix .. ':m:' .. ARGV[2]),
  running, open,
}
"""
_FIELDS: Final = 8

Scope = KeyId | None


class HeldTokens(msgspec.Struct, frozen=True):
    """One reservation. `at` is Redis's Unix time when it was taken, `day` and `month` begin the periods it counts in.

    `swept`: its process died and it was given back; it is kept only so that the fact can still be settled.
    """

    request_id: RequestId
    process: str
    key_id: KeyId
    at: int
    tokens: int
    day: int
    month: int
    swept: bool


class TenantCounters(msgspec.Struct, frozen=True):
    """What Redis counts for one tenant. Each mapping is from a scope: the tenant, or one of its keys.

    Attributes
    ----------
    complete
        Whether the sums count: without it nothing is granted before they were counted anew.
    now
        Redis's Unix time of the reading, in seconds.
    day, month
        Tokens spent and reserved in the periods asked for.
    running
        Requests that run.
    held
        Every reservation.
    """

    complete: bool
    now: float
    day: Mapping[Scope, int]
    month: Mapping[Scope, int]
    running: Mapping[Scope, int]
    held: tuple[HeldTokens, ...]


class LimitCounters:
    """Reads counters. `redis` is a client that returns bytes; every method raises `RedisError` if it cannot answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._read = redis.register_script(_READ)

    async def tenants(self) -> tuple[TenantId, ...]:
        """Return every tenant that may have counters."""
        found = cast("set[bytes]", await self._redis.smembers(TENANTS_KEY))
        return tuple(TenantId(UUID(member.decode())) for member in sorted(found))

    async def now(self) -> float:
        """Return Redis's Unix time."""
        seconds, microseconds = await self._redis.time()
        return seconds + microseconds / 1e6

    async def of(self, tenant_id: TenantId, *, day: int, month: int) -> TenantCounters:
        """Return a tenant's counters of one instant, with the day and the month that began at these Unix times."""
        answer = cast(
            "list[Any]", await self._read(keys=[tenant_prefix(tenant_id)], args=[str(day), str(month)])
        )
        complete, seconds, microseconds, of_day, of_month, running, held = answer
        return TenantCounters(
            complete=bool(complete),
            now=int(seconds) + int(microseconds) / 1e6,
            day=_by_scope(of_day),
            month=_by_scope(of_month),
            running=_by_scope(running),
            held=tuple(_held(held[at : at + _FIELDS]) for at in range(0, len(held), _FIELDS)),
        )


def _by_scope(flat: Sequence[bytes]) -> dict[Scope, int]:
    return {
        TENANT if scope == TENANT_SCOPE else KeyId(UUID(bytes=scope)): int(number)
        for scope, number in zip(flat[::2], flat[1::2], strict=True)
    }


def _held(fields: Sequence[bytes]) -> HeldTokens:
    request_id, process, key_id, at, tokens, day, month, swept = fields
    return HeldTokens(
        request_id=RequestId(UUID(bytes=request_id)),
        process=process.decode(),
        key_id=KeyId(UUID(bytes=key_id)),
        at=int(at),
        tokens=int(tokens),
        day=int(day),
        month=int(month),
        swept=swept == b"1",
    )
