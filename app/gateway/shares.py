"""What limits do while Redis cannot be asked: every process makes do with its share.

This is the policy for an outage of Redis, and for the moments in which counters that were lost are made anew. A process
may use the Nth part of each rate and of what may run at once, N being the processes that lived when Redis was last
heard of, and the Nth part of what the ledger says is left of a quota, less what it has used itself and the ledger does
not know. All that it lets in is entered in Redis afterwards (`Limiter`).
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

import structlog

from app.gateway.live_processes import LiveProcesses
from app.gateway.recounts import ReadsLedger
from domain.errors import LimitExceeded, Unavailable
from domain.limits import Ask, Held, LimitKind, LimitState, Refused
from domain.recounts import Declaration
from domain.shares import Ledger, ShareBook, Standing
from domain.values import KeyId, TenantId

SHARE_SPENT_S: Final = 5
"""When to come back if the others' parts of a limit have room, and this process's has none."""

LEDGER_AGAIN_S: Final = 1.0

_QUOTAS: Final = (LimitKind.TOKENS_PER_DAY, LimitKind.TOKENS_PER_MONTH)

_log = structlog.get_logger()


class OutageShares:
    """The books of the tenants whose limits this process decides alone.

    Parameters
    ----------
    processes
        Among whom limits are shared.
    ledger
        What the ledger knows.
    declare
        Returns what this process holds of a tenant.
    on_taken
        Is told of each request that was let in on a share.
    """

    def __init__(
        self,
        *,
        processes: LiveProcesses,
        ledger: ReadsLedger,
        declare: Callable[[TenantId], Declaration],
        on_taken: Callable[[], None] = lambda: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._processes = processes
        self._ledger = ledger
        self._declare = declare
        self._on_taken = on_taken
        self._now = now
        self._books: dict[TenantId, _Book] = {}
        self._ledger_away_until = 0.0

    def __len__(self) -> int:
        return len(self._books)

    async def take(self, ask: Ask, at: int, *, reason: str) -> tuple[LimitState, ...]:
        """Let a request in if this process's shares have room, and return how they stand.

        Parameters
        ----------
        at
            The Unix second, by Redis's clock as far as it is known.
        reason
            A constant for the log: why nobody can be asked.

        Raises
        ------
        LimitExceeded
            A rate or the requests at once are used up, or a quota is, as a whole.
        Unavailable
            Only the parts of other processes have room, or nobody knows what was spent.
        """
        if not self._processes.are_known:
            raise Unavailable(reason)
        found = await self._book(ask, at, reason=reason)
        book, ledger, now = found.book, found.ledger or {}, self._now()
        # From here on nothing is waited for: what is judged is what is taken.
        standings = [
            book.standing(kind, ask, key_id, limit, ledger=ledger, at=at, now=now)
            for key_id, kind, limit in _limits(ask)
        ]
        states = tuple(standing.state for standing in standings)
        refusing = [standing for standing in standings if standing.wait_s]
        if refusing:
            _refuse(max(refusing, key=lambda standing: standing.wait_s), states)
        book.take(ask, at=at, now=now)
        self._on_taken()
        return states

    def settle(self, held: Held, tokens: int) -> None:
        """Note what a request came to, if its tenant has a book."""
        found = self._books.get(held.ask.tenant_id)
        if found is not None:
            found.book.settle(held, tokens)

    def over(self, tenant_id: TenantId) -> None:
        """Throw a tenant's book away: Redis decides again."""
        if self._books.pop(tenant_id, None) is not None and not self._books:
            _log.info("limits_exact_again")

    def since(self, tenant_id: TenantId) -> float | None:
        """Return when this process began to decide alone about a tenant (monotonic), None if it does not."""
        found = self._books.get(tenant_id)
        return None if found is None else found.book.began

    async def _book(self, ask: Ask, at: int, *, reason: str) -> "_Book":
        """Return a tenant's book, with what the ledger knows if any quota needs it."""
        found = self._fitting(ask, at)
        if found is None:
            if not self._books:
                _log.warning("limits_shared", reason=reason, processes=self._processes.shares.processes)
            known = self._declare(ask.tenant_id)
            day, month = ask.day.holding(at), ask.month.holding(at)
            book = ShareBook(self._processes.shares, known, day=day, month=month, now=self._now())
            found = self._books[ask.tenant_id] = _Book(book)
        if found.ledger is None and any(kind in _QUOTAS for _, kind, _ in _limits(ask)):
            # What this process holds was noted before: what is accounted meanwhile counts twice, never not.
            async with found.reading:
                if found.ledger is None:
                    found.ledger = await self._read(ask.tenant_id, found.book, reason=reason)
        return found

    def _fitting(self, ask: Ask, at: int) -> "_Book | None":
        found = self._books.get(ask.tenant_id)
        if found is not None and (found.book.day, found.book.month) == (
            ask.day.holding(at),
            ask.month.holding(at),
        ):
            return found
        return None

    async def _read(self, tenant_id: TenantId, book: ShareBook, *, reason: str) -> Ledger:
        if self._now() < self._ledger_away_until:
            raise Unavailable(reason)
        moments = {
            LimitKind.TOKENS_PER_DAY: datetime.fromtimestamp(book.day[0], UTC),
            LimitKind.TOKENS_PER_MONTH: datetime.fromtimestamp(book.month[0], UTC),
        }
        try:
            spent = await self._ledger(tenant_id, since=tuple(moments.values()))
        except Exception as exc:
            # Whatever the database's driver raises: neither store knows what is left. Others need not wait for it.
            self._ledger_away_until = self._now() + LEDGER_AGAIN_S
            raise Unavailable(reason) from exc
        found: dict[tuple[LimitKind, KeyId | None], int] = {}
        for kind, moment in moments.items():
            found.update({(kind, key_id): tokens for key_id, tokens in spent[moment].items()})
            found[kind, None] = sum(spent[moment].values())
        return found


class _Book:
    """A share book, and what the ledger knows once somebody needed it."""

    __slots__ = ("book", "ledger", "reading")

    def __init__(self, book: ShareBook) -> None:
        self.book = book
        self.ledger: Ledger | None = None
        self.reading = asyncio.Lock()


def _limits(ask: Ask) -> Iterator[tuple[KeyId | None, LimitKind, int]]:
    for key_id, limits in ((None, ask.tenant_limits), (ask.key_id, ask.key_limits)):
        for kind in LimitKind:
            limit: int | None = getattr(limits, kind.value)
            if limit is not None:
                yield key_id, kind, limit


def _refuse(worst: Standing, states: tuple[LimitState, ...]) -> None:
    if worst.wait_s == float("inf"):
        raise Unavailable("share_spent", retry_after_s=SHARE_SPENT_S)
    raise LimitExceeded(Refused(worst.state, worst.wait_s, states))
