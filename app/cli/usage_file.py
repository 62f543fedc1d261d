"""The file that an export writes: begun anew, or gone on with after its last whole line."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Literal, NamedTuple

import msgspec

from app.cli.failure import CommandFailed, InputRefused
from app.cli.place import reason

Layout = Literal["ndjson", "csv"]
STANDARD_OUTPUT: Final = Path("-")

_LAST_BYTES: Final = 1_048_576
"""Far more than one row takes."""


class _Row(msgspec.Struct):
    cursor: str


class Target(NamedTuple):
    """Where rows go. `cursor` is that of the last row that is there already, None for a new file."""

    out: IO[bytes]
    cursor: str | None


def layout_of(file: Path) -> Layout:
    """Return what a file holds by its name: CSV if it ends in .csv, else one JSON object a line."""
    return "csv" if file.suffix.lower() == ".csv" else "ndjson"


@contextmanager
def target(file: Path, *, resume: bool) -> Iterator[Target]:
    """Give what rows are written to.

    Raises
    ------
    InputRefused, CommandFailed
        The file is there without `resume`, is not there with it, or cannot be written.
    """
    if file == STANDARD_OUTPUT:
        if resume:
            raise InputRefused("Only a file can be resumed; give --cursor to go on elsewhere.")
        yield Target(sys.stdout.buffer, None)
        return
    if file.exists() and not resume:
        raise CommandFailed(f"{file} is there already; --resume goes on with it.")
    try:
        with file.open("r+b" if resume else "xb") as out:
            yield Target(out, _cursor_at_the_end(out, file) if resume else None)
    except OSError as exc:
        raise CommandFailed(f"{file} cannot be written: {reason(exc)}.") from None


def _cursor_at_the_end(out: IO[bytes], file: Path) -> str | None:
    """Cut a file after its last whole line, go there, and return that line's cursor.

    Raises
    ------
    CommandFailed
        What stands there is no row of an export.
    """
    size = out.seek(0, os.SEEK_END)
    first = max(0, size - _LAST_BYTES)
    out.seek(first)
    lines = out.read().splitlines(keepends=True)
    while lines and not lines[-1].endswith(b"\n"):
        size -= len(lines.pop())
    if not lines or (len(lines) == 1 and first == 0 and layout_of(file) == "csv"):
        # Nothing but the names of columns, which come again with the first row.
        size = 0
    out.truncate(size)
    out.seek(size)
    return None if size == 0 else _cursor(lines[-1], file)


def _cursor(line: bytes, file: Path) -> str:
    wrong = CommandFailed(f"{file} does not end with a row of an export, so it cannot be resumed.")
    try:
        if layout_of(file) == "csv":
            return line.decode().rstrip().rpartition(",")[2]
        return msgspec.json.decode(line, type=_Row).cursor
    except (ValueError, msgspec.MsgspecError):
        raise wrong from None
