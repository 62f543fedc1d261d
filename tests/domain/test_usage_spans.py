"""A span of time is divided without overlap or gap, and stale sums are never used."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from domain.usage_spans import DAY, HOUR, Cover, Span, cover

MIDNIGHT = datetime(2031, 5, 30, tzinfo=UTC)
NEPAL = timezone(timedelta(hours=5, minutes=45))
ragged = st.timedeltas(-3 * DAY, 4 * DAY).map(lambda after: (MIDNIGHT + after).astimezone(NEPAL))
moments = ragged | st.integers(-3, 3).map(lambda days: MIDNIGHT + days * DAY)
touched_hours = st.sets(st.integers(-72, 96).map(lambda hours: MIDNIGHT + hours * HOUR), max_size=12)


def span(first_h: float, past_h: float) -> Span:
    """Build a span by hours since midnight."""
    return Span(MIDNIGHT + first_h * HOUR, MIDNIGHT + past_h * HOUR)


def divided(first_h: float, past_h: float, touched_h: tuple[int, ...] = ()) -> Cover:
    wanted = span(first_h, past_h)
    return cover(wanted.first, wanted.past, [MIDNIGHT + hour * HOUR for hour in touched_h])


def test_whole_days_come_from_days() -> None:
    assert divided(0, 72) == Cover((span(0, 72),), (), ())


def test_ragged_ends_come_from_hours_and_rows() -> None:
    assert divided(-1.5, 49.25) == Cover(
        (span(0, 48),), (span(-1, 0), span(48, 49)), (span(-1.5, -1), span(49, 49.25))
    )


def test_a_touched_hour_is_read_from_rows_and_its_day_from_hours() -> None:
    assert divided(0, 72, (30,)) == Cover(
        (span(0, 24), span(48, 72)), (span(24, 30), span(31, 48)), (span(30, 31),)
    )


def test_neighbouring_touched_hours_are_one_piece() -> None:
    assert divided(0, 24, (5, 6, 7)).rows == (span(5, 8),)


def test_less_than_an_hour_comes_from_rows() -> None:
    assert divided(1.25, 1.75) == Cover((), (), (span(1.25, 1.75),))


def test_an_hour_across_two_hours_comes_from_rows() -> None:
    assert divided(1.5, 2.5) == Cover((), (), (span(1.5, 2.5),))


def test_the_ends_of_the_calendar_are_moments_like_any_other() -> None:
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

    assert cover(first, first + DAY, []) == Cover((Span(first, first + DAY),), (), ())
    assert cover(last - HOUR / 2, last, []) == Cover((), (), (Span(last - HOUR / 2, last),))


def test_a_span_that_ends_before_it_begins_is_empty() -> None:
    assert divided(48, 0) == Cover((), (), ())


@given(moments, moments, touched_hours)
def test_the_pieces_are_the_span(since: datetime, until: datetime, touched: set[datetime]) -> None:
    found = cover(since, until, touched)

    pieces = sorted((*found.days, *found.hours, *found.rows))
    assert all(piece.first < piece.past for piece in pieces)
    ends = [since, *(edge for piece in pieces for edge in (piece.first, piece.past)), until]
    assert pieces == [] if since >= until else ends[::2] == ends[1::2]


@given(moments, moments, touched_hours)
def test_sums_are_whole_and_fresh(since: datetime, until: datetime, touched: set[datetime]) -> None:
    found = cover(since, until, touched)

    for unit, pieces in ((DAY, found.days), (HOUR, found.hours)):
        for piece in pieces:
            assert not (piece.first - MIDNIGHT) % unit
            assert not (piece.past - MIDNIGHT) % unit
            assert not any(piece.first <= hour < piece.past for hour in touched)
