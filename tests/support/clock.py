"""Clocks that move when a test says so."""

from datetime import UTC, datetime, timedelta


class Clock:
    """Monotonic seconds; `today()` is the wall clock beside them."""

    def __init__(self, at: float = 1000.0) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at

    def today(self) -> datetime:
        return datetime(2026, 11, 23, tzinfo=UTC) + timedelta(seconds=self.at)
