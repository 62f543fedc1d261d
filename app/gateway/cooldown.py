"""Backends that this process leaves out for a moment after a failure."""

import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Final

COOLDOWN_S: Final = 5.0
LATE_FAILURE_WINDOW_S: Final = 10.0
LATE_FAILURES: Final = 3
"""Failures after the first relayed byte may be the request's own doing; only the third within the window counts."""


class Cooldown:
    """Who is cooling. A poll of the worker that succeeded after the failure ends it early.

    `now` is monotonic seconds; `today` is the wall clock, by which a poll elsewhere is told to be the newer one.
    Where the clocks disagree a cooldown ends too early or lasts its five seconds: neither does harm.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        today: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._now = now
        self._today = today
        self._until: dict[str, float] = {}
        self._failed_at: dict[str, datetime] = {}
        self._late: dict[str, list[float]] = {}

    def failed(self, backend: str) -> None:
        """Note a failure before the first relayed byte."""
        self._until[backend] = self._now() + COOLDOWN_S
        self._failed_at[backend] = self._today()

    def failed_late(self, backend: str) -> None:
        """Note a failure after the first relayed byte."""
        now = self._now()
        recent = [at for at in self._late.get(backend, ()) if at > now - LATE_FAILURE_WINDOW_S]
        recent.append(now)
        self._late[backend] = recent[-LATE_FAILURES:]
        if len(recent) >= LATE_FAILURES:
            self.failed(backend)

    def polled(self, last_ok: Mapping[str, datetime | None]) -> None:
        """Take a new model table: a backend that answered a poll since it failed stops cooling."""
        for backend, at in last_ok.items():
            if backend in self._until and at is not None and at > self._failed_at[backend]:
                del self._until[backend]

    def cooling(self) -> Collection[str]:
        """Return the backends to leave out now. Empty, and free, as long as nothing failed."""
        if not self._until:
            return ()
        now = self._now()
        for backend in [name for name, until in self._until.items() if until <= now]:
            del self._until[backend]
        return self._until.keys()
