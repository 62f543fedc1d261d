"""Waiting for a condition instead of sleeping for a guess."""

import asyncio
import time
from collections.abc import Callable

_INTERVAL_S = 0.01


def wait_until(condition: Callable[[], bool], *, within_s: float) -> None:
    """Block until the condition holds.

    Raises
    ------
    AssertionError
        It did not within `within_s` seconds.
    """
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s")
        time.sleep(_INTERVAL_S)


async def until(condition: Callable[[], bool], *, within_s: float) -> None:
    """Wait until the condition holds, while the event loop turns.

    Raises
    ------
    TimeoutError
        It did not within `within_s` seconds.
    """
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - other processes and threads cannot set our events
            await asyncio.sleep(_INTERVAL_S)
