"""Where the sums of a span of time are found: whole days, whole hours, and rows for what is left."""

from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Final

import msgspec

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Span(msgspec.Struct, frozen=True, order=True):
    """The time from `first` up to, not including, `past`."""

    first: datetime
    past: datetime


class Cover(msgspec.Struct, frozen=True):
    """A span in three sets of pieces, each in order, that neither overlap nor leave anything out.

    `days` and `hours` begin and end on whole ones in UTC.
    """

    days: tuple[Span, ...]
    hours: tuple[Span, ...]
    rows: tuple[Span, ...]


def cover(since: datetime, until: datetime, touched: Collection[datetime]) -> Cover:
    """Divide the time from `since` up to `until` among sums by day, sums by hour, and rows.

    Parameters
    ----------
    since, until
        Moments with a time zone.
    touched
        Hours whose sums are not up to date, by their beginning: neither they nor their days can be used.
    """
    whole = Span(since.astimezone(UTC), until.astimezone(UTC))
    stale = sorted(touched)
    days = _whole(whole, DAY, stale)
    hours = tuple(piece for rest in _gaps(whole, days) for piece in _whole(rest, HOUR, stale))
    return Cover(days, hours, tuple(_gaps(whole, sorted((*days, *hours)))))


def first_of_month(moment: datetime) -> date:
    """Return the accounting period of a moment: the first day of its month in UTC."""
    return moment.astimezone(UTC).date().replace(day=1)


def _whole(span: Span, unit: timedelta, stale: Iterable[datetime]) -> tuple[Span, ...]:
    """Return the whole units within a span that hold no stale hour, neighbours as one piece."""
    if span.past - span.first < unit:
        return ()
    inner = Span(_floor(span.first + unit - timedelta.resolution, unit), _floor(span.past, unit))
    holes = sorted({_floor(hour, unit) for hour in stale})
    return tuple(_gaps(inner, (Span(hole, hole + unit) for hole in holes)))


def _gaps(span: Span, holes: Iterable[Span]) -> Iterator[Span]:
    """Yield what a span has beside the holes, which are in order and apart."""
    first = span.first
    for hole in holes:
        if first < min(hole.first, span.past):
            yield Span(first, min(hole.first, span.past))
        first = max(first, hole.past)
    if first < span.past:
        yield Span(first, span.past)


def _floor(moment: datetime, unit: timedelta) -> datetime:
    return moment - (moment - _EPOCH) % unit
