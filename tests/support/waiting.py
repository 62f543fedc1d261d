"""Waiting for a condition instead of sleeping for a guess."""

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
