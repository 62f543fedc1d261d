"""Limits counted in Redis: one atomic step admits a request by all of them or changes nothing.

Spent and reserved tokens of a day and a month are one sum; a settlement corrects it by the difference. Requests
that run are counted for the tenant and for the key, limited or not, so that a limit set later finds its sum.
"""

import asyncio
import itertools
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final, cast
from uuid import UUID

import msgspec

from db.redis.multiplex import MultiplexedRedis, RedisScript
from domain.limits import Admitted, Ask, LimitKind, Limits, LimitState, Refused, Spent, Unknown
from domain.values import RequestId, TenantId

TENANTS_KEY: Final = "nng:limits:tenants"

GRACE_S: Final = 6
"""The age from which a reservation may be swept: a process that has just begun may not have reported yet."""

_SCRIPT: Final = RedisScript(Path(__file__).with_name("limits.lua").read_text(encoding="utf-8"))
_PERIODS: Final = {LimitKind.TOKENS_PER_DAY: "d", LimitKind.TOKENS_PER_MONTH: "m"}
_TENANT_SCOPE: Final = "t"
_KINDS: Final = tuple(LimitKind)
_HEADER: Final = 4

_pack = struct.Struct("<19d").pack


class OutsidePeriods(Exception):  # noqa: N818 - a state of the world, not a mistake
    """Redis's clock is in none of the periods of an ask. `now_s` is its Unix time; build the ask again from it."""

    def __init__(self, now_s: int) -> None:
        super().__init__(f"Redis's clock, {now_s}, is in none of the periods it was given")
        self.now_s = now_s


class LimitStore:
    """What requests ask. Every method raises `RedisError`, of which `RedisAway` is one, when Redis cannot answer.

    After a `take` that raised, the reservation may exist nevertheless: settle the request in any case.

    Parameters
    ----------
    redis
        The connection that the process keeps for such questions.
    process_id
        Under which the process reports that it lives (`RevocationNews`). When it stops doing so, its
        reservations are given back.
    """

    def __init__(self, redis: MultiplexedRedis, *, process_id: str) -> None:
        self._redis = redis
        self._process_id = process_id
        self._now_s: int | None = None

    @property
    def now_s(self) -> int | None:
        """Redis's Unix time as last seen by `take`, None before the first answer."""
        return self._now_s

    async def take(self, ask: Ask) -> Admitted | Refused | Unknown:
        """Reserve what a request asks for, if all limits of its tenant and its key admit it.

        Raises
        ------
        OutsidePeriods
            The ask was built from a time too far from Redis's.
        """
        tenant, key, day, month = ask.tenant_limits, ask.key_limits, ask.day, ask.month
        numbers = _pack(
            ask.tokens,
            day.previous,
            day.current,
            day.next,
            day.end,
            month.previous,
            month.current,
            month.next,
            month.end,
            *_numbers(tenant),
            *_numbers(key),
        )
        try:
            answer = await self._redis.run(
                _SCRIPT,
                (_prefix(ask.tenant_id),),
                "take",
                ask.request_id.bytes,
                self._process_id,
                ask.key_id.bytes,
                numbers,
            )
        except asyncio.CancelledError:
            # The reservation was made or is under way, and its owner is gone.
            self._redis.send_on(_SCRIPT, (_prefix(ask.tenant_id),), "settle", ask.request_id.bytes, 0)
            raise
        return self._decision(cast("list[bytes | int]", answer), tenant, key)

    def _decision(
        self, answer: list[bytes | int], tenant: Limits, key: Limits
    ) -> Admitted | Refused | Unknown:
        verdict, now_s = answer[0], cast("int", answer[1])
        self._now_s = now_s
        if verdict == b"unknown":
            return Unknown()
        if verdict == b"periods":
            raise OutsidePeriods(now_s)
        numbers = cast("list[int]", answer)
        limited = [
            (kind, scope, limit)
            for scope, limits in (("tenant", tenant), ("key", key))
            for kind, limit in zip(_KINDS, msgspec.structs.astuple(limits), strict=True)
            if limit is not None
        ]
        states = tuple(
            LimitState(kind, scope, limit, numbers[at], numbers[at + 1] / 1000)
            for at, (kind, scope, limit) in zip(itertools.count(_HEADER, 2), limited, strict=False)
        )
        if verdict == b"admitted":
            return Admitted(states)
        return Refused(states[numbers[2] - 1], numbers[3] / 1000, states)

    async def settle(self, tenant_id: TenantId, request_id: RequestId, tokens: int) -> bool:
        """Replace a request's reservation by the tokens it took, in the periods of its admission.

        Any process may do that. Returns False if nothing is reserved: it was settled before, or not admitted, or
        Redis lost its memory.
        """
        answer = await self._redis.run(
            _SCRIPT, (_prefix(tenant_id),), "settle", request_id.bytes, max(tokens, 0)
        )
        return answer == 1

    async def forget(self, tenant_id: TenantId) -> None:
        """Have the next `take` of a tenant find its sums unknown, so that they are counted anew."""
        await self._redis.call("DEL", f"{_prefix(tenant_id)}:epoch")

    async def begin(self, tenant_id: TenantId, spent: Iterable[Spent]) -> bool:
        """Tell Redis what is spent, so that it grants again; return False if somebody else already did.

        Name every period that an ask may fall into: those named are counted anew, what runs now on top.
        """
        sums: list[str | int | bytes] = []
        for one in spent:
            scope = _TENANT_SCOPE if one.key_id is None else one.key_id.bytes
            sums += (_PERIODS[one.kind], one.start, one.end, scope, one.tokens)
        # First, so that no tenant that is granted anything is ever left out of the sweeps.
        await self._redis.call("SADD", TENANTS_KEY, str(tenant_id))
        return await self._redis.run(_SCRIPT, (_prefix(tenant_id),), "begin", *sums) == 1


class LimitLeases:
    """What the sweep of dead processes needs. Raises like `LimitStore`."""

    def __init__(self, redis: MultiplexedRedis) -> None:
        self._redis = redis

    async def tenants(self) -> tuple[TenantId, ...]:
        """Return every tenant that may hold reservations."""
        found = cast("list[bytes]", await self._redis.call("SMEMBERS", TENANTS_KEY))
        return tuple(TenantId(UUID(member.decode())) for member in sorted(found))

    async def sweep(self, tenant_id: TenantId, live: frozenset[str]) -> int:
        """Give back what processes that are not live have reserved, and return how many requests that were.

        Their reservations are remembered for two days, so that what they took can still be settled.
        """
        answer = await self._redis.run(_SCRIPT, (_prefix(tenant_id),), "sweep", GRACE_S, *live)
        return cast("int", answer)


def _prefix(tenant_id: TenantId) -> str:
    return f"nng:{{t:{tenant_id}}}"


def _numbers(limits: Limits) -> tuple[int, ...]:
    return tuple([-1 if limit is None else limit for limit in msgspec.structs.astuple(limits)])
