"""Bars of text: numbers that can be compared at a glance, in a terminal or a pipe."""

import sys
from collections.abc import Sequence
from shutil import get_terminal_size
from typing import Final, NamedTuple

_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_FULL: Final = "█"
_PLAIN: Final = "#"
_GAP: Final = "  "
_NARROWEST: Final = 10
"""Columns that the longest bar gets at least, however narrow the terminal is."""


class Bar(NamedTuple):
    """One line: its name, its length, and the number as people read it."""

    label: str
    number: float
    told: str


def show_chart(title: str, bars: Sequence[Bar]) -> None:
    """Print a chart as wide as the terminal, or as 80 columns in a pipe."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    print(title)
    for line in chart_lines(bars, columns=get_terminal_size((80, 24)).columns, blocks=encoding == "utf8"):
        print(line)


def chart_lines(bars: Sequence[Bar], *, columns: int, blocks: bool = True) -> list[str]:
    """Return one line for each bar, the longest of which fills what names and numbers leave of the columns.

    Whatever is not zero can be seen. Without `blocks` bars are made of plain characters.
    """
    labels = max((len(bar.label) for bar in bars), default=0)
    numbers = max((len(bar.told) for bar in bars), default=0)
    room = max(columns - labels - numbers - 2 * len(_GAP), _NARROWEST)
    most = max((bar.number for bar in bars), default=0)
    draw = _blocks if blocks else _characters
    return [
        f"{bar.label.ljust(labels)}{_GAP}{bar.told.rjust(numbers)}{_GAP}"
        f"{draw(bar.number / most if most else 0, room)}".rstrip()
        for bar in bars
    ]


def _blocks(share: float, room: int) -> str:
    eighths = max(round(share * room * 8), 1 if share > 0 else 0)
    whole, rest = divmod(eighths, 8)
    return _FULL * whole + (_EIGHTHS[rest] if rest else "")


def _characters(share: float, room: int) -> str:
    return _PLAIN * max(round(share * room), 1 if share > 0 else 0)
