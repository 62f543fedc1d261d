"""Names and reasons fit into one line, whoever writes them and by whichever road they come."""

from datetime import timedelta

import pytest

from domain.drains import MAX_REASON_CHARS, ReasonMissing, checked_reason
from domain.rotations import MAX_OVERLAP_S, OverlapInvalid, checked_overlap
from domain.tenants import MAX_NAME_CHARS, NameMissing, checked_name

UNFIT = ("", " ", "\u00a0", "a\tb", "a\nb", "a\n", "\x1b[2J", "a\x7f", "a\u2028b")


@pytest.mark.parametrize("text", [*UNFIT, "x" * (MAX_NAME_CHARS + 1)])
def test_a_name_that_breaks_a_line_is_refused(text: str) -> None:
    with pytest.raises(NameMissing):
        checked_name(text)


@pytest.mark.parametrize("text", [*UNFIT, "x" * (MAX_REASON_CHARS + 1)])
def test_a_reason_that_breaks_a_line_is_refused(text: str) -> None:
    with pytest.raises(ReasonMissing):
        checked_reason(text)


def test_the_longest_name_and_reason_lose_nothing() -> None:
    assert checked_name("x" * MAX_NAME_CHARS) == "x" * MAX_NAME_CHARS
    assert checked_reason("é" * MAX_REASON_CHARS) == "é" * MAX_REASON_CHARS


@pytest.mark.parametrize("seconds", [-1, MAX_OVERLAP_S + 1])
def test_keys_work_together_for_a_year_at_most(seconds: int) -> None:
    with pytest.raises(OverlapInvalid):
        checked_overlap(timedelta(seconds=seconds))


def test_keys_may_work_together_for_a_year() -> None:
    assert checked_overlap(timedelta(seconds=MAX_OVERLAP_S)) == timedelta(seconds=MAX_OVERLAP_S)
