"""Quota periods: days and months of any zone tile the time line."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from domain.limits import PeriodBounds
from domain.periods import bounds

HOUR = 3600
ZONES = sorted(available_timezones() - {"localtime", "posixrules", "Factory"})
INSTANTS = st.integers(5 * 86_400, 4_102_444_800).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


def at(text: str, zone: str = "UTC") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))


def day(zone: str, now: datetime) -> PeriodBounds:
    return bounds(zone, now)[0]


def month(zone: str, now: datetime) -> PeriodBounds:
    return bounds(zone, now)[1]


def instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@settings(deadline=None)  # the first use of a zone reads its file
@given(st.sampled_from(ZONES), INSTANTS)
@example("America/Sao_Paulo", at("2018-11-04T03:00:00"))  # midnight is skipped
@example("America/Toronto", at("1919-03-31T04:45:00"))  # the clocks jump from 23:30 to 00:30
@example("America/St_Johns", at("2010-11-07T02:31:30"))  # midnight comes twice, an hour apart
@example("Pacific/Apia", at("2011-12-30T10:00:00"))  # a whole day is skipped
@example("Pacific/Kwajalein", at("1993-08-21T12:00:00"))
def test_periods_hold_now_and_adjoin(zone: str, now: datetime) -> None:
    for position in (0, 1):
        found = bounds(zone, now)[position]

        assert found.current <= now.timestamp() < found.next
        assert found.previous < found.current < found.next < found.end
        assert bounds(zone, instant(found.current))[position] == found
        assert bounds(zone, instant(found.next - 1))[position] == found
        following = bounds(zone, instant(found.next))[position]
        assert (following.previous, following.current, following.next) == (
            found.current,
            found.next,
            found.end,
        )
        before = bounds(zone, instant(found.current - 1))[position]
        assert (before.current, before.next, before.end) == (found.previous, found.current, found.next)


@settings(deadline=None)  # the first use of a zone reads its file
@given(st.sampled_from(ZONES), INSTANTS)
def test_a_month_begins_with_a_day(zone: str, now: datetime) -> None:
    whole = month(zone, now)

    assert day(zone, instant(whole.current)).current == whole.current
    assert whole.current <= day(zone, now).current < whole.next


@pytest.mark.parametrize(
    ("zone", "now", "hours"),
    [
        ("Europe/Berlin", "2026-03-29T12:00", 23),
        ("Europe/Berlin", "2026-10-25T12:00", 25),
        ("Europe/Berlin", "2026-10-26T00:00", 24),
        ("Australia/Lord_Howe", "2026-04-05T12:00", 24.5),
        ("America/Sao_Paulo", "2018-11-04T12:00", 23),
        ("UTC", "2026-03-29T12:00", 24),
    ],
)
def test_days_are_as_long_as_the_clocks_make_them(zone: str, now: str, hours: float) -> None:
    found = day(zone, at(now, zone))

    assert (found.next - found.current) / HOUR == hours


@pytest.mark.parametrize(
    ("now", "begins", "days"),
    [
        ("2028-02-29T23:59:59", "2028-02-01", 29),
        ("2027-02-28T23:59:59", "2027-02-01", 28),
        ("2100-02-28T23:59:59", "2100-02-01", 28),
        ("2026-12-31T23:59:59", "2026-12-01", 31),
        ("2027-01-01T00:00:00", "2027-01-01", 31),
    ],
)
def test_months_end_when_the_calendar_says(now: str, begins: str, days: int) -> None:
    found = month("UTC", at(now))

    assert found.current == at(begins).timestamp()
    assert found.next - found.current == days * 24 * HOUR


def test_days_and_months_are_those_of_the_zone() -> None:
    now = at("2026-12-31T23:30:00")

    assert month("Asia/Kathmandu", now).current == at("2027-01-01", "Asia/Kathmandu").timestamp()
    assert month("America/New_York", now).current == at("2026-12-01", "America/New_York").timestamp()


def test_a_year_of_days_has_no_gap() -> None:
    start = at("2028-01-01", "Europe/Berlin")
    days = [day("Europe/Berlin", start + timedelta(hours=6 * step)) for step in range(4 * 370)]
    distinct = list(dict.fromkeys(days))

    assert all(earlier.next == later.current for earlier, later in pairwise(distinct))
    new_year = at("2029-01-01", "Europe/Berlin").timestamp()
    assert len([found for found in distinct if found.current < new_year]) == 366


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd", "Europe"])
def test_a_zone_nobody_knows_counts_as_utc(name: str) -> None:
    now = at("2026-11-23T12:00")

    assert bounds(name, now) == bounds("UTC", now)
