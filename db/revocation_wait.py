"""Waiting until every live app process has said that it acted upon a revocation."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec

CONFIRM_WITHIN_S: Final = 5.0
BOUND_S: Final = 2.0
"""How long a process that hears nothing can go on: each reads the sequence from Postgres by itself."""
_LOOK_AGAIN_S: Final = 0.005


class Confirmation(msgspec.Struct, frozen=True):
    """Which processes confirmed, and which did not in time. `seconds` counts from the moment that was given."""

    seq: int
    confirmed: tuple[str, ...]
    missing: tuple[str, ...]
    seconds: float


async def confirmation(
    seq: int,
    *,
    seen: Callable[[], Awaitable[Mapping[str, int]]],
    since: float,
    within_s: float = CONFIRM_WITHIN_S,
    now: Callable[[], float] = time.monotonic,
) -> Confirmation:
    """Return once every live process has acted upon everything up to `seq`, or `within_s` after `since`.

    Parameters
    ----------
    seq
        The number to wait for.
    seen
        Returns which live process has acted upon which number; what it raises passes through.
    since
        The moment of the commit, in seconds of `now`.
    within_s
        How long to wait.
    now
        The clock.
    """
    while True:
        processes = await seen()
        missing = tuple(sorted(name for name, number in processes.items() if number < seq))
        seconds = now() - since
        if not missing or seconds >= within_s:
            confirmed = tuple(sorted(processes.keys() - missing))
            return Confirmation(seq, confirmed, missing, seconds)
        await asyncio.sleep(_LOOK_AGAIN_S)
