"""Bars of text."""

import pytest

from app.cli.chart import Bar, chart_lines

BARS = (Bar("2031-05-30", 80, "80"), Bar("2031-05-31", 40, "40"), Bar("2031-06-01", 1, "1"), Bar("x", 0, "-"))


def test_the_longest_bar_fills_the_line_and_the_others_are_in_proportion() -> None:
    lines = chart_lines(BARS, columns=36)

    assert [len(line) for line in lines] == [36, 26, 17, 14]
    assert lines[0] == f"2031-05-30  80  {'█' * 20}"
    assert lines[1] == f"2031-05-31  40  {'█' * 10}"


def test_what_is_not_nothing_can_be_seen_and_nothing_cannot() -> None:
    lines = chart_lines((*BARS[:1], Bar("small", 0.001, "0")), columns=36)

    assert lines[1].endswith("▏")
    assert chart_lines(BARS, columns=36)[3] == "x            -"


def test_a_narrow_terminal_still_gets_bars() -> None:
    assert chart_lines(BARS, columns=10)[0].endswith("█" * 10)


def test_plain_characters_where_blocks_cannot_be_shown() -> None:
    lines = chart_lines(BARS, columns=36, blocks=False)

    assert lines[0].endswith("#" * 20)
    assert all(line.isascii() for line in lines)


@pytest.mark.parametrize("bars", [(), (Bar("x", 0, "0"),)])
def test_nothing_to_draw_is_no_fault(bars: tuple[Bar, ...]) -> None:
    assert len(chart_lines(bars, columns=80)) == len(bars)
