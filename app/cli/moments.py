"""Moments as they are typed: a day, a point in time, or how long ago."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from app.cli.failure import InputRefused

_AGO: Final = re.compile(r"([1-9]\d{0,4})([mhd])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")


def moment_meant(text: str, *, now: datetime, whole_day: bool = False) -> datetime:
    """Return the moment that `2026-11-01`, `2026-11-01T12:00` or `7d` stands for.

    `whole_day` makes a day stand for its end.

    Raises
    ------
    InputRefused
        It stands for none.
    """
    try:
        if ago := _AGO.fullmatch(text):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        meant = datetime.fromisoformat(text)
        if whole_day and _DAY.fullmatch(text):
            meant += timedelta(days=1)
        return meant.astimezone(UTC) if meant.tzinfo else meant.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InputRefused(
            f"{text!r} is no time; write 2026-11-01, 2026-11-01T12:00, or 7d, 24h, 30m for that long ago."
        ) from None
