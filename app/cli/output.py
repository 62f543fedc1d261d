"""What commands print: results on standard output, everything said about them on standard error.

A person at a terminal gets tables with borders and colours; a pipe gets the same columns as plain text, never
cut to a width; `--json` gives machines one line with stable names.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from shutil import get_terminal_size
from typing import Any, Final, Literal

from domain.printable import printable

NOTHING: Final = "-"
_GAP: Final = "  "


@dataclass(frozen=True)
class Table:
    """Rows of text under headings. `numbers` are the columns aligned to the right; `total` is a last row."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()
    total: Sequence[str] | None = None


def show_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    import msgspec

    print(msgspec.json.encode(value).decode())


def show_table(table: Table) -> None:
    """Print a table the way its reader can use it; nothing in it reaches a terminal that would obey it."""
    table = _escaped(table)
    lines = plain_lines(table)
    if sys.stdout.isatty() and max(map(len, lines)) + len(table.headings) < get_terminal_size().columns:
        _show_bordered(table)
        return
    # Also on a terminal too narrow for it: wrapped lines are whole, squeezed cells are not.
    for line in lines:
        print(line)


def plain_lines(table: Table) -> list[str]:
    """Return a table as aligned text, one line per row."""
    table = _escaped(table)
    rows = [table.headings, *table.rows, *(() if table.total is None else (table.total,))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.headings))]
    return [
        _GAP.join(
            cell.rjust(widths[column]) if column in table.numbers else cell.ljust(widths[column])
            for column, cell in enumerate(row)
        ).rstrip()
        for row in rows
    ]


def _escaped(table: Table) -> Table:
    def cells(row: Sequence[str]) -> tuple[str, ...]:
        return tuple(map(printable, row))

    total = None if table.total is None else cells(table.total)
    return replace(table, rows=[cells(row) for row in table.rows], total=total)


def _show_bordered(table: Table) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    bordered = RichTable(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_footer=table.total is not None
    )
    footer = table.total or [""] * len(table.headings)
    for column, heading in enumerate(table.headings):
        justify: Literal["left", "right"] = "right" if column in table.numbers else "left"
        bordered.add_column(heading, Text(footer[column]), justify=justify)
    for row in table.rows:
        # As Text, so that no name is taken for markup.
        bordered.add_row(*(Text(cell) for cell in row))
    Console(file=sys.stdout).print(bordered)


def say(*lines: str) -> None:
    """Tell a person something that is not the result itself."""
    for line in lines:
        print(line, file=sys.stderr)


@contextmanager
def progress(doing: str) -> Iterator[Callable[[str], None]]:
    """Show at a terminal what takes its time while the block runs; what is given shows what it has come to."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(file=sys.stderr).status(doing) as status:
        yield status.update


def moment(at: datetime | None) -> str:
    """Return a point in time as people read it: UTC, to the minute."""
    return NOTHING if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def count_of(number: int, noun: str) -> str:
    """Return `1 model`, `2 models`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
