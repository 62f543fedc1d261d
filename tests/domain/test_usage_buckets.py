"""A span cut into hours, days or months: nothing overlaps, nothing is left out, and days are those of the zone."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.usage_buckets import buckets, count_bound
from domain.usage_report import TIME_UNITS, UsageGroup
from domain.usage_spans import Span

ZONES = ("UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns", "Pacific/Apia", "Africa/Cairo")
moments = st.datetimes(datetime(2011, 12, 1), datetime(2012, 1, 31), timezones=st.just(UTC))  # noqa: DTZ001 - the strategy adds it
spans = st.tuples(moments, moments).map(sorted).map(lambda ends: Span(*ends))


def labels(since: str, until: str, unit: UsageGroup, zone: str) -> list[str]:
    span = Span(datetime.fromisoformat(since), datetime.fromisoformat(until))
    return [bucket.label for bucket in buckets(span, unit, zone)]


@settings(deadline=None)
@given(span=spans, unit=st.sampled_from(TIME_UNITS), zone=st.sampled_from(ZONES))
def test_buckets_adjoin_and_are_no_more_than_was_said(span: Span, unit: UsageGroup, zone: str) -> None:
    found = list(buckets(span, unit, zone))

    edges = [span.first, *(bucket.span.past for bucket in found)]
    assert [bucket.span.first for bucket in found] == edges[:-1]
    assert edges[-1] == span.past
    assert len({bucket.label for bucket in found}) == len(found) <= count_bound(span, unit)


@settings(deadline=None)
@given(span=spans, zone=st.sampled_from(ZONES))
def test_a_day_holds_what_the_zone_s_clocks_call_so(span: Span, zone: str) -> None:
    for bucket in buckets(span, UsageGroup.DAY, zone):
        for moment in (bucket.span.first, bucket.span.past - timedelta.resolution):
            assert moment.astimezone(ZoneInfo(zone)).date().isoformat() == bucket.label


@pytest.mark.parametrize(
    ("unit", "zone", "expected"),
    [
        (UsageGroup.HOUR, "Asia/Kolkata", ["2026-10-31T18:00:00Z", "2026-10-31T19:00:00Z"]),
        (UsageGroup.DAY, "Asia/Kolkata", ["2026-10-31", "2026-11-01"]),
        (UsageGroup.MONTH, "Asia/Kolkata", ["2026-10", "2026-11"]),
        (UsageGroup.MONTH, "UTC", ["2026-10"]),
    ],
)
def test_labels(unit: UsageGroup, zone: str, expected: list[str]) -> None:
    assert labels("2026-10-31T18:15:00+00:00", "2026-10-31T19:45:00+00:00", unit, zone) == expected


def test_a_day_that_a_zone_leaves_out_is_no_bucket() -> None:
    found = labels("2011-12-29T12:00:00+00:00", "2011-12-31T12:00:00+00:00", UsageGroup.DAY, "Pacific/Apia")

    assert found == ["2011-12-29", "2011-12-31", "2012-01-01"]
