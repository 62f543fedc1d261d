"""Following the revocation sequence in Postgres: the bound on staleness that needs nobody else.

Each app process reads the newest sequence number every second. Whatever sits in the caches and is named by a
newer row is dropped. Fanout through Redis only makes this sooner.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

import structlog

from domain.values import Principal

POLL_INTERVAL_S: Final = 1.0
MAX_ROWS_PER_POLL: Final = 1000
MAX_RECENT: Final = 1000
"""How many rows a process remembers, to tell what they outdate and what they do not."""

_log = structlog.get_logger()


class Revoked(Protocol):
    """One row of the sequence."""

    @property
    def seq(self) -> int: ...  # noqa: D102
    @property
    def scope(self) -> str: ...  # noqa: D102
    @property
    def subject_id(self) -> UUID: ...  # noqa: D102
    @property
    def at(self) -> datetime: ...  # noqa: D102
    @property
    def usable(self) -> bool: ...  # noqa: D102


class DropsKeys(Protocol):
    """The caches that must forget what was revoked.

    `ended` says that there is nothing to ask: the key, or each key of the tenant, may be refused at once.
    """

    def drop_key(self, key_id: UUID, *, ended: bool) -> None:
        """Forget one key."""

    def drop_tenant(self, tenant_id: UUID, *, ended: bool) -> None:
        """Forget all keys of a tenant."""

    def drop_all(self) -> None:
        """Forget everything."""


class Watches(Protocol):
    """Who wants to know how a process keeps up."""

    def acted(self, row: Revoked) -> None:
        """Take note that the caches have forgotten what a row names."""

    def reached(self, seq: int) -> None:
        """Take note of how far the process is, at each look and each change."""


class Unwatched:
    """Nobody wants to know."""

    def acted(self, row: Revoked) -> None:
        """Take no note."""

    def reached(self, seq: int) -> None:
        """Take no note."""


class RevocationFollower:
    """Knows the newest sequence number this process has acted upon, and when Postgres last confirmed it.

    `since` returns the rows above a number in order, at most `MAX_ROWS_PER_POLL`; `latest` the newest number.
    """

    def __init__(
        self,
        *,
        latest: Callable[[], Awaitable[int]],
        since: Callable[[int, int], Awaitable[Sequence[Revoked]]],
        caches: Sequence[DropsKeys] = (),
        now: Callable[[], float] = time.monotonic,
        watch: Watches | None = None,
    ) -> None:
        self._latest = latest
        self._since = since
        self._caches = list(caches)
        self._now = now
        self._watch = watch or Unwatched()
        # Every row above `_horizon` is in `_recent`.
        self._horizon = -1
        self._recent: deque[Revoked] = deque()
        self.seq = -1
        self.confirmed_at = float("-inf")
        self._failing = False
        self._polling = asyncio.Lock()

    def add_cache(self, cache: DropsKeys) -> None:
        """Tell `cache` about revocations from now on."""
        self._caches.append(cache)

    async def follow(self) -> None:
        """Poll for ever; an unreachable database is logged once and shows in `confirmed_at`."""
        while True:
            await self.poll_safely()
            await asyncio.sleep(POLL_INTERVAL_S)

    async def poll_safely(self) -> None:
        """Poll once, whatever the database does."""
        try:
            await self.poll()
        except Exception as exc:  # noqa: BLE001 - whatever the driver raises, the next second tries again
            if not self._failing:
                _log.warning("revocation_poll_failed", error=type(exc).__name__)
            self._failing = True
        else:
            if self._failing:
                _log.info("revocation_poll_recovered", seq=self.seq)
            self._failing = False

    async def poll(self) -> None:
        """Read the sequence once and drop what it names."""
        async with self._polling:
            asked_at, known = self._now(), self.seq
            latest = await self._latest()
            if known < 0 or latest < known:
                self._restart(latest)
            elif latest > self.seq:
                await self._catch_up(latest)
            self.confirmed_at = asked_at
            self._watch.reached(self.seq)

    def take(self, after: int, seq: int, rows: Sequence[Revoked]) -> bool:
        """Act upon announced news; return False if only Postgres can tell what they mean to this process.

        News do not count as a confirmation: only Postgres itself says that nothing newer is missing.
        """
        if not rows or self.seq < 0 or after > self.seq:
            return False
        if seq > self.seq:
            self._drop([row for row in rows if row.seq > self.seq])
            self.seq = seq
            self._watch.reached(seq)
        return True

    def outdates(self, principal: Principal, seq: int) -> bool:
        """Tell whether a principal that was read at `seq` may have been revoked or changed since."""
        if seq >= self.seq:
            return False
        if seq < self._horizon or self.seq - self._horizon != len(self._recent):
            return True
        subjects = {principal.key_id, principal.tenant_id}
        return any(row.subject_id in subjects for row in self._recent if row.seq > seq)

    def _restart(self, latest: int) -> None:
        """First read, or a restored database whose sequence went back: nothing cached can be trusted."""
        if self.seq >= 0:
            _log.warning("revocation_seq_went_back", known=self.seq, found=latest)
        self._drop_all()
        # What shared caches hold from before the restore carries numbers up to the old one.
        self._horizon = max(latest, self.seq)
        self.seq = latest

    async def _catch_up(self, latest: int) -> None:
        known = self.seq
        rows = await self._since(known, MAX_ROWS_PER_POLL)
        # Numbers have no gaps. Where some are missing, rows were pruned while this process could not look, or a
        # restore has been fenced off.
        if rows and len(rows) < MAX_ROWS_PER_POLL and rows[-1].seq - known == len(rows):
            self._drop([row for row in rows if row.seq > self.seq])
            self.seq = max(rows[-1].seq, self.seq)
        else:
            self._drop_all()
            self._horizon = self.seq = max(latest, self.seq)

    def _drop_all(self) -> None:
        self._recent.clear()
        for cache in self._caches:
            cache.drop_all()

    def _drop(self, rows: Sequence[Revoked]) -> None:
        for row in rows:
            self._recent.append(row)
            if len(self._recent) > MAX_RECENT:
                self._horizon = self._recent.popleft().seq
            for cache in self._caches:
                if row.scope == "key":
                    cache.drop_key(row.subject_id, ended=not row.usable)
                else:
                    cache.drop_tenant(row.subject_id, ended=not row.usable)
            self._watch.acted(row)
