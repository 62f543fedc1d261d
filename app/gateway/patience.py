"""When Redis counts as out of reach: at once where nobody listens, else after some silence.

A single answer that does not come in time says little: this process or the server may have been held up for a
moment, while all others are served. To decide alone then would give away what the others have taken.
"""

import time
from collections.abc import Callable
from typing import Final

from redis.exceptions import RedisError

from db.redis.multiplex import RedisRefused

PATIENT_FOR: Final = 3
"""How many times the time of one answer Redis may be silent."""


class Patience:
    """How long Redis has been silent, over all requests of this process.

    `timeout_s` is what one answer may take.
    """

    def __init__(self, *, timeout_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._bound_s = PATIENT_FOR * timeout_s
        self._now = now
        self._silent_since = 0.0
        self._is_silent = False

    def answered(self) -> None:
        """Note that Redis answered."""
        self._is_silent = False

    def is_over(self, failure: RedisError, *, asked_at: float) -> bool:
        """Note a failure of a question that was asked at a monotonic time; tell whether Redis is out of reach."""
        if not self._is_silent:
            self._is_silent, self._silent_since = True, asked_at
        return isinstance(failure, RedisRefused) or self._now() - self._silent_since >= self._bound_s
