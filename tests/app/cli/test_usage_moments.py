"""How a moment may be written on the command line."""

from datetime import UTC, datetime, timedelta

import pytest

from app.cli.failure import InputRefused
from app.cli.moments import moment_meant

NOW = datetime(2031, 6, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("7d", NOW - timedelta(days=7)),
        ("24h", NOW - timedelta(hours=24)),
        ("30m", NOW - timedelta(minutes=30)),
        ("2031-05-01", datetime(2031, 5, 1, tzinfo=UTC)),
        ("2031-05-01T12:00", datetime(2031, 5, 1, 12, tzinfo=UTC)),
        ("2031-05-01T12:00+02:00", datetime(2031, 5, 1, 10, tzinfo=UTC)),
    ],
)
def test_a_moment_may_be_written_in_many_ways(text: str, meant: datetime) -> None:
    assert moment_meant(text, now=NOW) == meant


@pytest.mark.parametrize("text", ["", "0d", "7", "d", "2031-13-01", "0001-01-01T00:00+23:00"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(InputRefused):
        moment_meant(text, now=NOW)


def test_a_day_that_counts_whole_stands_for_its_end() -> None:
    assert moment_meant("2031-05-31", now=NOW, whole_day=True) == datetime(2031, 6, 1, tzinfo=UTC)
