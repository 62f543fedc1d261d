"""Hours, days and months of a report: a span of time cut where they change."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec

from domain.periods import bounds
from domain.usage_report import UsageGroup
from domain.usage_spans import HOUR, Span


class Bucket(msgspec.Struct, frozen=True):
    """A piece of time that one line of a report stands for."""

    label: str
    span: Span


def buckets(span: Span, unit: UsageGroup | None, time_zone: str) -> Iterator[Bucket]:
    """Cut a span where hours, days or months change; without a unit it is one bucket without a label.

    Parameters
    ----------
    span
        What to cut. The first and the last bucket may be parts of their hour, day or month.
    unit
        An hour in UTC, labelled `2026-11-25T16:00:00Z`; a day `2026-11-25` or a month `2026-11` of the time zone.
    time_zone
        IANA name, as of a tenant: days and months are those of its quotas.
    """
    if unit is None:
        yield Bucket("", span)
        return
    first = span.first.astimezone(UTC)
    while first < span.past:
        label, past = _ahead(first, unit, time_zone)
        yield Bucket(label, Span(first, min(past, span.past)))
        first = past


def _ahead(moment: datetime, unit: UsageGroup, time_zone: str) -> tuple[str, datetime]:
    """Return what the unit that holds a moment is called, and when the next one begins."""
    if unit is UsageGroup.HOUR:
        hour = moment.replace(minute=0, second=0, microsecond=0)
        return f"{hour:%Y-%m-%dT%H:%M:%S}Z", hour + HOUR
    day, month = bounds(time_zone, moment)
    period = day if unit is UsageGroup.DAY else month
    begin = datetime.fromtimestamp(period.current, ZoneInfo(time_zone))
    label = begin.date().isoformat() if unit is UsageGroup.DAY else f"{begin:%Y-%m}"
    return label, datetime.fromtimestamp(period.next, UTC)


def count_bound(span: Span, unit: UsageGroup) -> int:
    """Return about how many buckets a span has, never fewer: a day may be an hour short, and both ends be cut."""
    shortest = {
        UsageGroup.HOUR: HOUR,
        UsageGroup.DAY: timedelta(hours=23),
        UsageGroup.MONTH: timedelta(days=27),
    }
    return (span.past - span.first) // shortest[unit] + 2
