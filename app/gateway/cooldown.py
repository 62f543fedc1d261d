"""Backends that this process leaves out for a moment after a failure."""

import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Final

COOLDOWN_S: Final = 5.0
LATE_FAILURE_WINDOW_S: Final = 10.0
LATE_FAILURES: Final = 3
"""Failures after the first relayed byte may be the request's own doing; only the third within the window counts."""


class Cooldown:
    """Who is cooling. A poll of the worker that succeeded after the failure ends it early.

    `now` is monotonic seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._until: dict[str, float] = {}
        self._late: dict[str, list[float]] = {}
        self._last_ok: dict[str, datetime | None] = {}

    def failed(self, backend: str) -> None:
        """Note a failure before the first relayed byte."""
        self._until[backend] = self._now() + COOLDOWN_S

    def failed_late(self, backend: str) -> None:
        """Note a failure after the first relayed byte."""
        now = self._now()
        recent = [at for at in self._late.get(backend, ()) if at > now - LATE_FAILURE_WINDOW_S]
        recent.append(now)
        if len(recent) >= LATE_FAILURES:
            recent.clear()
            self.failed(backend)
        self._late[backend] = recent

    def polled(self, last_ok: Mapping[str, datetime | None]) -> None:
        """Take a new model table: a backend with a newer good poll than before stops cooling."""
        for backend, at in last_ok.items():
            if self._last_ok.get(backend) != at:
                self._last_ok[backend] = at
                self._until.pop(backend, None)

    def cooling(self) -> Collection[str]:
        """Return the backends to leave out now. Empty, and free, as long as nothing failed."""
        if not self._until:
            return ()
        now = self._now()
        for backend in [name for name, until in self._until.items() if until <= now]:
            del self._until[backend]
        return self._until.keys()
