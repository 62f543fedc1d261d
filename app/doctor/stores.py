"""Checks of Postgres and Redis: their clocks, their schema, what Redis does when it is full."""

import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from app.doctor.findings import Finding, FindingKind, Level

SKEW_TOLD: Final = timedelta(seconds=1)
SKEW_BAD: Final = timedelta(seconds=10)
KEEPS_EVERYTHING: Final = "noeviction"


class ClockReading(msgspec.Struct, frozen=True):
    """How far another clock is ahead of this machine's, as far as the way there lets it be told.

    `unsure` is half the time that asking took: the truth lies within that around `ahead`.
    """

    ahead: timedelta
    unsure: timedelta


async def read_clock(ask: Callable[[], Awaitable[datetime]], *, now: Callable[[], datetime]) -> ClockReading:
    """Ask another clock twice and compare it with ours; the first time opens the connection."""
    await ask()
    asked, begun = now(), time.monotonic()
    theirs = await ask()
    took = timedelta(seconds=time.monotonic() - begun)
    return ClockReading(theirs - (asked + took / 2), took / 2)


def of_clock(store: str, reading: ClockReading) -> Iterator[Finding]:
    """Yield whether a store's clock and this machine's are apart."""
    apart = abs(reading.ahead) - reading.unsure
    if apart <= SKEW_TOLD:
        return
    direction = "ahead of" if reading.ahead > timedelta(0) else "behind"
    yield Finding(
        FindingKind.CLOCK_SKEW,
        Level.ERROR if apart > SKEW_BAD else Level.WARNING,
        store,
        f"The clock of {store} is {abs(reading.ahead).total_seconds():,.1f} s {direction} this machine's.",
    )


def of_revision(found: str | None, release: str) -> Iterator[Finding]:
    """Yield whether the database is not at this release's revision; None: it has none."""
    if found != release:
        yield Finding(
            FindingKind.DATABASE_REVISION,
            Level.ERROR,
            "Postgres",
            f"The database is at revision {found or 'none'}, this release is at {release}.",
        )


def of_eviction(policy: str | None) -> Iterator[Finding]:
    """Yield whether Redis throws something away when it is full; None: it does not say."""
    if policy == KEEPS_EVERYTHING:
        return
    told = f"is {policy}" if policy else "is not told by the server"
    yield Finding(
        FindingKind.REDIS_EVICTS,
        Level.ERROR if policy else Level.WARNING,
        "Redis",
        f"Its maxmemory-policy {told}; it must be {KEEPS_EVERYTHING}.",
    )


def utc_now() -> datetime:
    """Return this machine's time."""
    return datetime.now(UTC)
