"""Slowing down whoever guesses: the wrong keys of one client address are counted, and too many make it wait.

While an address waits, no key from there is even looked at, right or wrong: otherwise waiting would stop nobody. Only
a key that has worked from that very address before passes, so that nobody can lock a neighbour out by guessing from
behind the same address; a key that is new there waits until a quarter of an hour after the guessing has ended. Tries
at the same moment each take a place before they are decided, so a thousand at once are no more than the budget either
(docs/decisions/0008).

Redis counts for all processes. While it is away each process counts for itself.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv6Address, ip_network
from typing import Final

import structlog
from redis.exceptions import RedisError
from uuid_utils.compat import uuid7

from app.admin.errors import TooManyLogins
from app.gateway.client_address import ClientAddress
from db.redis.login_budget import UNDECIDED_MS, LoginBudgetStore
from domain.errors import GatewayError, Unauthenticated

BUDGET: Final = 5
WINDOW_S: Final = 15 * 60.0
BELIEVED_S: Final = 30 * 86_400.0
"""How long after its last login a key passes from an address whose budget is spent."""
ASK_AGAIN_S: Final = 3600.0
"""How long this process itself remembers that a key works from an address."""
MAX_REMEMBERED: Final = 10_000
_IPV6_SITE_BITS: Final = 64
_MS: Final = 1000

_log = structlog.get_logger()


class LoginBudget:
    """The budgets of all addresses.

    Parameters
    ----------
    store
        What all processes share.
    budget
        Wrong keys per holder and window.
    window_s
        How long a wrong key counts.
    now
        The process's own clock, in seconds; only what Redis cannot tell is measured with it.
    """

    def __init__(
        self,
        store: LoginBudgetStore,
        *,
        budget: int = BUDGET,
        window_s: float = WINDOW_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store: Final = store
        self._budget: Final = budget
        self._window_s: Final = window_s
        self._now: Final = now
        self._own: Final = _OwnCount(budget, now)
        self._proven: Final[dict[tuple[str, bytes], float]] = {}
        self._deciding: Final[dict[tuple[str, bytes], asyncio.Lock]] = {}
        self._away = False

    @asynccontextmanager
    async def one_try(self, address: ClientAddress | None, proof: bytes) -> AsyncIterator[None]:
        """Hold a place while the block finds out whether a key is right; `Unauthenticated` says that it is not.

        Raises
        ------
        TooManyLogins
            The address has to wait; the block does not run.
        """
        holder = holder_of(address)
        if not self._remembers(holder, proof):
            # One at a time: the first requests of a new client all come at once, with one key.
            lock = self._deciding.setdefault((holder, proof), asyncio.Lock())
            async with lock:
                if not self._remembers(holder, proof):
                    async with self._place(holder, proof):
                        yield
                    return
        try:
            yield
        except Unauthenticated:
            # It worked from here until now.
            self._proven.pop((holder, proof), None)
            await self._fail(holder, _new_id(), proof)
            raise

    @asynccontextmanager
    async def _place(self, holder: str, proof: bytes) -> AsyncIterator[None]:
        try_id = _new_id()
        try:
            await self._take(holder, try_id, proof)
            try:
                yield
            except Unauthenticated:
                await self._fail(holder, try_id, proof)
                raise
            except GatewayError:
                await self._shared(self._store.release(holder, try_id))
                self._own.release(holder, try_id)
                raise
            await self._pass(holder, try_id, proof)
        finally:
            self._deciding.pop((holder, proof), None)

    async def _take(self, holder: str, try_id: bytes, proof: bytes) -> None:
        try:
            wait_ms = await self._store.take(holder, try_id, proof, budget=self._budget)
        except RedisError as exc:
            self._report(exc)
            wait_ms = self._own.take(holder, try_id)
        else:
            self._report(None)
        if wait_ms:
            raise TooManyLogins(math.ceil(wait_ms / _MS))

    async def _fail(self, holder: str, try_id: bytes, proof: bytes) -> None:
        # Also here, in case Redis goes away in a moment.
        self._own.fail(holder, try_id, self._window_s)
        await self._shared(self._store.fail(holder, try_id, proof, window_ms=int(self._window_s * _MS)))

    async def _pass(self, holder: str, try_id: bytes, proof: bytes) -> None:
        self._own.release(holder, try_id)
        await self._shared(self._store.passed(holder, try_id, proof, believed_ms=int(BELIEVED_S * _MS)))
        if len(self._proven) >= MAX_REMEMBERED:
            self._proven.clear()
        self._proven[holder, proof] = self._now()

    def _remembers(self, holder: str, proof: bytes) -> bool:
        return self._proven.get((holder, proof), -math.inf) > self._now() - ASK_AGAIN_S

    async def _shared(self, telling: Awaitable[None]) -> None:
        try:
            await telling
        except RedisError as exc:
            self._report(exc)

    def _report(self, trouble: RedisError | None) -> None:
        """Log the first failure and the first success after it."""
        if trouble is not None and not self._away:
            _log.warning("login_budget_unshared", error=type(trouble).__name__)
        elif trouble is None and self._away:
            _log.info("login_budget_shared")
        self._away = trouble is not None


class _OwnCount:
    """The same count in this process alone."""

    def __init__(self, budget: int, now: Callable[[], float]) -> None:
        self._budget = budget
        self._now = now
        self._tries: dict[str, dict[bytes, float]] = {}

    def take(self, holder: str, try_id: bytes) -> int:
        now = self._now()
        tries = {key: until for key, until in self._tries.get(holder, {}).items() if until > now}
        if len(tries) >= self._budget:
            return max(1, math.ceil((min(tries.values()) - now) * _MS))
        tries[try_id] = now + UNDECIDED_MS / _MS
        self._keep(holder, tries)
        return 0

    def fail(self, holder: str, try_id: bytes, window_s: float) -> None:
        now = self._now()
        tries = {key: until for key, until in self._tries.get(holder, {}).items() if until > now}
        tries[try_id] = now + window_s
        while len(tries) > self._budget:
            del tries[min(tries, key=tries.__getitem__)]
        self._keep(holder, tries)

    def release(self, holder: str, try_id: bytes) -> None:
        self._tries.get(holder, {}).pop(try_id, None)

    def _keep(self, holder: str, tries: dict[bytes, float]) -> None:
        self._tries.pop(holder, None)
        if len(self._tries) >= MAX_REMEMBERED:
            del self._tries[next(iter(self._tries))]
        self._tries[holder] = tries


def holder_of(address: ClientAddress | None) -> str:
    """Return who shares a budget: an IPv4 address, an IPv6 /64 (one site has no fewer), or all without an address."""
    if isinstance(address, IPv6Address):
        return str(ip_network((address, _IPV6_SITE_BITS), strict=False).network_address)
    return "none" if address is None else str(address)


def _new_id() -> bytes:
    return uuid7().bytes
