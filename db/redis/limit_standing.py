"""Reading how a tenant and a key stand with their limits. The counters belong to `db.redis.limits`."""

import itertools
import struct
from typing import Final, cast

import msgspec

from db.redis.limit_script import limit_script, scope_of, tenant_prefix
from db.redis.multiplex import MultiplexedRedis
from domain.limits import LimitKind, Limits, PeriodBounds
from domain.standing import LimitUse
from domain.values import KeyId, TenantId

_SCRIPT: Final = limit_script("limit_standing.lua")
_HEADER: Final = 2
_EACH: Final = 3
_NONE: Final = -1

_pack = struct.Struct("<18d").pack


class LimitStanding:
    """What callers are told of their limits. Raises `RedisError` when Redis cannot answer."""

    def __init__(self, redis: MultiplexedRedis) -> None:
        self._redis = redis

    async def read(
        self,
        tenant_id: TenantId,
        key_id: KeyId,
        *,
        tenant_limits: Limits,
        key_limits: Limits,
        day: PeriodBounds,
        month: PeriodBounds,
    ) -> tuple[LimitUse, ...] | None:
        """Return every limit that is set with its use, the tenant's first; None if Redis does not know them.

        That is so until the tenant's next request has had them counted anew, and where Redis's clock is in
        none of the periods.
        """
        levels = (("tenant", tenant_limits), ("key", key_limits))
        set_limits = [
            (kind, scope, limit)
            for scope, limits in levels
            for kind, limit in zip(LimitKind, msgspec.structs.astuple(limits), strict=True)
            if limit is not None
        ]
        numbers = [_NONE if n is None else n for _, limits in levels for n in msgspec.structs.astuple(limits)]
        answer = await self._redis.run(
            _SCRIPT,
            (tenant_prefix(tenant_id),),
            scope_of(key_id),
            _pack(*msgspec.structs.astuple(day), *msgspec.structs.astuple(month), *numbers),
        )
        verdict, *_ = cast("list[bytes]", answer)
        if verdict != b"known":
            return None
        found = cast("list[int]", answer)[_HEADER:]
        uses = []
        for at, (kind, scope, limit) in zip(itertools.count(0, _EACH), set_limits, strict=False):
            in_use, held, reset_ms = found[at : at + _EACH]
            reserved = None if held == _NONE else held
            uses.append(LimitUse(kind, scope, limit, in_use - (reserved or 0), reserved, reset_ms / 1000))
        return tuple(uses)
