"""Limits counted in Redis: one atomic step admits a request by all of them or changes nothing.

Spent and reserved tokens of a day and a month are one sum; a settlement corrects it by the difference. Requests
that run are counted for the tenant and for the key, limited or not, so that a limit set later finds its sum.
"""

import asyncio
import itertools
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, cast, overload

import msgspec

from db.redis.limit_script import limit_script, tenant_prefix
from db.redis.multiplex import MultiplexedRedis, RedisAway
from domain.limits import Admitted, Ask, LimitKind, Limits, LimitState, Refused, Unknown
from domain.values import KeyId, RequestId, TenantId

_TAKE: Final = limit_script("limit_take.lua")
_SETTLE: Final = limit_script("limit_settle.lua", charges=True)
_GIVE_BACK: Final = limit_script("limit_give_back.lua", charges=True)
_KINDS: Final = tuple(LimitKind)
_HEADER: Final = 4
_SECOND_US: Final = 1_000_000
_TRIES: Final = 3

_pack_terms = struct.Struct("<18d").pack
_pack_asked = struct.Struct("<2d").pack
MAX_TERMS: Final = 20_000


class _Terms:
    """What of an ask is the same from one request of a key to the next, as the script wants it.

    `limited` are the limits that are set, in the order in which the script tells how they stand.
    """

    __slots__ = ("_ask", "keys", "limited", "packed")

    def __init__(self, ask: Ask) -> None:
        day, month = ask.day, ask.month
        self._ask = ask
        self.keys = (tenant_prefix(ask.tenant_id),)
        self.packed = _pack_terms(
            *(day.previous, day.current, day.next, day.end),
            *(month.previous, month.current, month.next, month.end),
            *_numbers(ask.tenant_limits),
            *_numbers(ask.key_limits),
        )
        self.limited = tuple(
            (kind, scope, limit)
            for scope, limits in (("tenant", ask.tenant_limits), ("key", ask.key_limits))
            for kind, limit in zip(_KINDS, msgspec.structs.astuple(limits), strict=True)
            if limit is not None
        )

    def are_those_of(self, ask: Ask) -> bool:
        """Tell whether an ask says the same. Its parts are the very objects as long as nothing changes."""
        own = self._ask
        return (
            ask.day is own.day
            and ask.month is own.month
            and ask.tenant_limits is own.tenant_limits
            and ask.key_limits is own.key_limits
        )


class _States(Sequence[LimitState]):
    """How limits stand. Read only when somebody looks: by then the request has gone on to a backend."""

    __slots__ = ("_limited", "_numbers", "_read")

    def __init__(self, numbers: list[int], limited: tuple[tuple[LimitKind, str, int], ...]) -> None:
        self._numbers = numbers
        self._limited = limited
        self._read: tuple[LimitState, ...] | None = None

    def __len__(self) -> int:
        return len(self._limited)

    @overload
    def __getitem__(self, index: int) -> LimitState: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LimitState]: ...
    def __getitem__(self, index: int | slice) -> LimitState | Sequence[LimitState]:
        if self._read is None:
            numbers = self._numbers
            self._read = tuple(
                [
                    LimitState(kind, scope, limit, numbers[at], numbers[at + 1] / 1000)
                    for at, (kind, scope, limit) in zip(
                        itertools.count(_HEADER, 2), self._limited, strict=False
                    )
                ]
            )
        return self._read[index]

    def __iter__(self) -> Iterator[LimitState]:
        return iter(self[:])


class OutsidePeriods(Exception):  # noqa: N818 - a state of the world, not a mistake
    """Redis's clock is in none of the periods of an ask. `now_s` is its Unix time; build the ask again from it."""

    def __init__(self, now_s: int) -> None:
        super().__init__(f"Redis's clock, {now_s}, is in none of the periods it was given")
        self.now_s = now_s


class LimitStore:
    """What requests ask. Every method raises `RedisError`, of which `RedisAway` is one, when Redis cannot answer.

    After a `take` that raised, the reservation may exist nevertheless: settle the request in any case. It will not
    be made any later.

    Parameters
    ----------
    redis
        The connection that the process keeps for such questions.
    process_id
        Under which the process reports that it lives (`RevocationNews`). When it stops doing so, its
        reservations are given back.
    now
        Monotonic seconds, by which Redis's time is reckoned between two answers.
    """

    def __init__(
        self, redis: MultiplexedRedis, *, process_id: str, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.redis: Final = redis
        self._process_id = process_id
        self._now = now
        self._ahead_s: float | None = None
        self._terms: dict[KeyId, _Terms] = {}

    @property
    def now_s(self) -> float | None:
        """Redis's Unix time, reckoned from what `take` saw last; None before the first answer."""
        return None if self._ahead_s is None else self._now() + self._ahead_s

    async def take(self, ask: Ask, *, again: bool = False) -> Admitted | Refused | Unknown:
        """Reserve what a request asks for, if all limits of its tenant and its key admit it.

        Parameters
        ----------
        again
            The same request has asked before and heard nothing: what it may hold is given back first.

        Raises
        ------
        OutsidePeriods
            The ask was built from a time too far from Redis's.
        """
        if self._ahead_s is None:
            seconds, microseconds = cast("list[bytes]", await self.redis.call("TIME"))
            self._saw(int(seconds) * _SECOND_US + int(microseconds))
        terms = self._terms_of(ask)
        if again:
            await self.redis.run(_GIVE_BACK, terms.keys, ask.request_id.bytes)
        for _ in range(_TRIES):
            answer = await self._take(ask, terms)
            if answer[0] != b"late":
                return self._decision(answer, terms)
            # Its clock has jumped, or this process was held up: ask again by the time it told.
            self._saw(cast("int", answer[1]))
        raise RedisAway("Redis answers too late")

    def _terms_of(self, ask: Ask) -> _Terms:
        terms = self._terms.get(ask.key_id)
        if terms is None or not terms.are_those_of(ask):
            if len(self._terms) >= MAX_TERMS:
                self._terms.clear()
            terms = self._terms[ask.key_id] = _Terms(ask)
        return terms

    async def _take(self, ask: Ask, terms: _Terms) -> list[bytes | int]:
        # Redis acts upon nothing that comes to its turn when nobody waits for it any more: it would be held for ever.
        until_us = (self._now() + (self._ahead_s or 0.0) + self.redis.timeout_s) * _SECOND_US
        try:
            answer = await self.redis.run(
                _TAKE,
                terms.keys,
                ask.request_id.bytes,
                self._process_id,
                ask.key_id.bytes,
                _pack_asked(ask.tokens, until_us) + terms.packed,
            )
        except asyncio.CancelledError:
            # The reservation was made or is under way, and its owner is gone.
            self.redis.send_on(_SETTLE, terms.keys, ask.request_id.bytes, 0)
            raise
        return cast("list[bytes | int]", answer)

    def _saw(self, now_us: int) -> None:
        self._ahead_s = now_us / _SECOND_US - self._now()

    def _decision(self, answer: list[bytes | int], terms: _Terms) -> Admitted | Refused | Unknown:
        verdict, now_us = answer[0], cast("int", answer[1])
        self._saw(now_us)
        now_s = now_us // _SECOND_US
        if verdict == b"unknown":
            return Unknown()
        if verdict == b"periods":
            raise OutsidePeriods(now_s)
        numbers = cast("list[int]", answer)
        states = _States(numbers, terms.limited)
        if verdict == b"admitted":
            return Admitted(states, now_s)
        return Refused(states[numbers[2] - 1], numbers[3] / 1000, states)

    async def settle(self, tenant_id: TenantId, request_id: RequestId, tokens: int) -> bool:
        """Replace a request's reservation by the tokens it took, in the periods of its admission.

        Any process may do that. Returns False if the counters are complete and nothing is reserved: it was settled
        before, or not admitted, or Redis lost its memory of it. While they are not complete it is always True, for
        whoever makes them takes it into account.
        """
        answer = await self.redis.run(_SETTLE, (tenant_prefix(tenant_id),), request_id.bytes, max(tokens, 0))
        return answer == 1

    def settle_soon(
        self,
        tenant_id: TenantId,
        request_id: RequestId,
        tokens: int,
        *,
        on_answer: Callable[[bool | None], None],
        lazily: bool = True,
    ) -> bool:
        """Do the same without waiting; return False if there is no connection and nothing was done.

        `lazily` it may travel with what is asked next, if that is soon.

        `on_answer` is told what `settle` would have returned, None if Redis did not answer: then it is to be
        settled again.
        """

        def told(done: "asyncio.Future[object]") -> None:
            failed = done.cancelled() or done.exception() is not None
            answer = None if failed else done.result()
            on_answer(answer == 1 if isinstance(answer, int) else None)

        return self.redis.run_soon(
            _SETTLE,
            (tenant_prefix(tenant_id),),
            request_id.bytes,
            max(tokens, 0),
            on_answer=told,
            lazily=lazily,
        )

    async def forget(self, tenant_id: TenantId) -> None:
        """Have the next `take` of a tenant find its counters unknown, so that they are made anew."""
        await self.redis.call("HDEL", f"{tenant_prefix(tenant_id)}:now", "epoch")


def _numbers(limits: Limits) -> tuple[int, ...]:
    return tuple([-1 if limit is None else limit for limit in msgspec.structs.astuple(limits)])
