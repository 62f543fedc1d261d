"""Days and months of a tenant's time zone, as instants: when a quota begins anew.

A day begins when the clocks there first show its midnight, so days last 23 or 25 hours where clocks change; a day
that a zone leaves out is no period at all. Periods adjoin and never overlap, whatever the clocks did.
"""

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from domain.limits import PeriodBounds

_DAY = timedelta(days=1)
_DAYS_KEPT = 4096
_ZONES_KEPT = 1024


def bounds(time_zone: str, now: datetime) -> tuple[PeriodBounds, PeriodBounds]:
    """Return the day and the month that hold `now`, with their neighbours.

    Parameters
    ----------
    time_zone
        IANA name. One that nobody knows counts as UTC: only raw SQL can write it, and requests must not fail.
    now
        Any aware instant.
    """
    day = now.astimezone(_zone(time_zone)).date()
    found = _around(time_zone, day)
    # Where clocks jump about midnight, a local date may lie beside the period that holds the instant.
    instant = now.timestamp()
    while instant < found[0].current:
        day -= _DAY
        found = _around(time_zone, day)
    while instant >= found[0].next:
        day += _DAY
        found = _around(time_zone, day)
    return found


@lru_cache(maxsize=_ZONES_KEPT)
def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return UTC


@lru_cache(maxsize=_DAYS_KEPT)
def _around(time_zone: str, day: date) -> tuple[PeriodBounds, PeriodBounds]:
    zone = _zone(time_zone)
    first = day.replace(day=1)
    return _day_bounds(zone, day), PeriodBounds(
        _start(zone, _month_after(first, -1)),
        _start(zone, first),
        _start(zone, _month_after(first, 1)),
        _start(zone, _month_after(first, 2)),
    )


def _day_bounds(zone: tzinfo, day: date) -> PeriodBounds:
    current = _start(zone, day)
    before = day - _DAY
    while (previous := _start(zone, before)) == current:
        before -= _DAY
    following, after = _later(zone, day, current)
    end, _ = _later(zone, after, following)
    return PeriodBounds(previous, current, following, end)


def _later(zone: tzinfo, day: date, start: int) -> tuple[int, date]:
    """Return the first start of a day after `start`, passing over a day that the zone left out, and that day."""
    day += _DAY
    while (found := _start(zone, day)) == start:
        day += _DAY
    return found, day


def _start(zone: tzinfo, day: date) -> int:
    # A midnight that clocks skip is read by the offset before the jump, a repeated one is the earlier.
    return int(datetime.combine(day, time(), tzinfo=zone).timestamp())


def _month_after(first: date, months: int) -> date:
    years, month = divmod(first.year * 12 + first.month - 1 + months, 12)
    return date(years, month + 1, 1)
