"""Counters of limits that were lost are made anew, and what dead processes held comes back.

Nothing here is asked by a request; it is what a process does for all of a tenant's requests. Every method raises
`RedisError`, of which `RedisAway` is one, when Redis cannot answer; all may be repeated.
"""

import struct
from collections.abc import Collection
from typing import Final, cast
from uuid import UUID

from db.redis.limit_script import limit_script, scope_of, tenant_prefix
from db.redis.multiplex import MultiplexedRedis
from domain.limits import Held, LimitKind, Limits
from domain.recounts import Recount
from domain.values import KeyId, RequestId, TenantId

TENANTS_KEY: Final = "nng:limits:tenants"

GRACE_S: Final = 6
"""The age from which a reservation may be swept: a process that has just begun may not have reported yet."""

_SCRIPT: Final = limit_script("limit_recounts.lua", charges=True)
_PERIODS: Final = {LimitKind.TOKENS_PER_DAY: "d", LimitKind.TOKENS_PER_MONTH: "m"}
_RATES: Final = {LimitKind.REQUESTS_PER_MINUTE: "r", LimitKind.TOKENS_PER_MINUTE: "w"}

_pack_held = struct.Struct("<8d").pack
_pack_rates = struct.Struct("<2d").pack

_Arguments = list[str | int | float | bytes]


class MemoryLost(Exception):  # noqa: N818 - reads as what happened
    """A recount has to begin again."""


class LimitRecounts:
    """What a process tells Redis about requests that Redis does not know of.

    Parameters
    ----------
    redis
        The connection that the process keeps for scripts.
    process_id
        As in `LimitStore`.
    """

    def __init__(self, redis: MultiplexedRedis, *, process_id: str) -> None:
        self._redis = redis
        self._process_id = process_id

    async def hold(self, held: Held) -> None:
        """Enter a running request that was let in without asking Redis. It is not judged any more."""
        await self._enter("hold", held, held.ask.tokens)

    async def book(self, held: Held, tokens: int) -> None:
        """Enter a request that was let in without asking and has ended; `tokens` is the fact."""
        await self._enter("book", held, max(tokens, 0))

    async def leave_uncounted(self, tenant_id: TenantId, key_id: KeyId) -> None:
        """Note that requests of a key go by uncounted, as neither it nor its tenant has a limit."""
        await self._run(tenant_id, "leave_uncounted", scope_of(None), scope_of(key_id))

    async def count_from_now(self, tenant_id: TenantId, scopes: Collection[KeyId | None]) -> None:
        """Have a tenant's counters made anew if requests of any of these scopes went by uncounted, in any process.

        A scope is the id of a key, or None for the tenant; at least one.
        """
        await self._run(tenant_id, "count_from_now", *map(scope_of, scopes))

    async def heard_of(self, tenant_id: TenantId) -> frozenset[RequestId]:
        """Return the requests that Redis counts by itself: the ledger's rows of these must not count as well."""
        found = cast("list[bytes]", await self._run(tenant_id, "heard_of"))
        return frozenset(RequestId(UUID(bytes=request_id)) for request_id in found)

    async def mark(self, tenant_id: TenantId, recount_id: str) -> bool:
        """Begin a recount: from now on Redis remembers what it hears about the tenant, or the recount fails.

        Returns False if there is nothing to count: the counters are there.
        """
        return await self._run(tenant_id, "mark", recount_id) == 1

    async def begin(self, tenant_id: TenantId, recount_id: str, recount: Recount) -> bool:
        """Tell Redis what a tenant's counters are, so that it grants again; False if somebody else already did.

        Name every period that an ask may fall into: those named are set, and what runs is added.

        Raises
        ------
        MemoryLost
            Redis has forgotten things since `mark`, or another recount has ended and been forgotten: this one may
            lack something.
        """
        arguments: _Arguments = [recount_id, len(recount.sums)]
        for one in recount.sums:
            arguments += (_PERIODS[one.kind], one.start, one.end, scope_of(one.key_id), one.tokens)
        arguments.append(len(recount.ended))
        arguments += (request_id.bytes for request_id in recount.ended)
        arguments.append(len(recount.running))
        for each in recount.running:
            ask = each.held.ask
            arguments += (
                ask.request_id.bytes,
                each.process,
                ask.key_id.bytes,
                _numbers(each.held, ask.tokens),
            )
        arguments.append(len(recount.levels))
        for level in recount.levels:
            arguments += (_RATES[level.kind], scope_of(level.key_id), level.limit, level.used)
        # First, so that no tenant that is granted anything is ever left out of the sweeps.
        await self._redis.call("SADD", TENANTS_KEY, str(tenant_id))
        answer = await self._run(tenant_id, "begin", *arguments)
        if answer == -1:
            raise MemoryLost("what was counted may be out of date")
        return answer == 1

    async def _enter(self, act: str, held: Held, tokens: int) -> None:
        ask = held.ask
        await self._run(
            ask.tenant_id,
            act,
            ask.request_id.bytes,
            self._process_id,
            ask.key_id.bytes,
            _numbers(held, tokens),
            _pack_rates(ask.tenant_limits.requests_per_minute or 0, ask.key_limits.requests_per_minute or 0),
        )

    async def _run(self, tenant_id: TenantId, *arguments: str | float | bytes) -> object:
        return await self._redis.run(_SCRIPT, (tenant_prefix(tenant_id),), *arguments)


class LimitLeases:
    """What the sweep of dead processes needs."""

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
        answer = await self._redis.run(_SCRIPT, (tenant_prefix(tenant_id),), "sweep", GRACE_S, *live)
        return cast("int", answer)


def _numbers(held: Held, tokens: int) -> bytes:
    tenant, key = held.ask.tenant_limits, held.ask.key_limits
    return _pack_held(tokens, held.at, *held.day, *held.month, _tpm(tenant), _tpm(key))


def _tpm(limits: Limits) -> int:
    return limits.tokens_per_minute or 0
