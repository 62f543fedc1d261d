"""The file that an export writes: begun anew, or gone on with after its last whole line."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, Literal

import msgspec

from app.cli.failure import CommandFailed, InputRefused, ReaderLeft
from app.cli.output import count_of, say
from app.cli.place import reason

Layout = Literal["ndjson", "csv"]
STANDARD_OUTPUT: Final = Path("-")

_LAST_BYTES: Final = 1_048_576
"""Far more than one row takes."""


class _Row(msgspec.Struct):
    cursor: str


class Target:
    """Where rows go. `cursor` is where the export goes on, None for the beginning."""

    def __init__(self, out: IO[bytes], file: Path, cursor: str | None) -> None:
        self.cursor: Final = cursor
        self._out = out
        self._file = file
        self._headings = 1 if cursor is None and layout_of(file) == "csv" else 0
        self._lines = 0

    @property
    def rows(self) -> int:
        """How many were written."""
        return max(0, self._lines - self._headings)

    def write(self, piece: bytes) -> None:
        """Write lines, at once.

        Raises
        ------
        ReaderLeft, CommandFailed
            Nobody reads them any more, or they cannot be written.
        """
        with _file_troubles(self._file):
            self._out.write(piece)
            self._out.flush()
        self._lines += piece.count(b"\n")


def layout_of(file: Path) -> Layout:
    """Return what a file holds by its name: CSV if it ends in .csv, else one JSON object a line."""
    return "csv" if file.suffix.lower() == ".csv" else "ndjson"


@contextmanager
def target(file: Path, *, resume: bool, cursor: str | None) -> Iterator[Target]:
    """Give what rows are written to. If the block fails, a new file without any row is taken away again.

    Parameters
    ----------
    resume
        Go on with a file that is there, after its last whole row.
    cursor
        Where the export goes on.

    Raises
    ------
    InputRefused, CommandFailed
        The file is there without `resume`, is not there with it, is no export, or cannot be written; or the cursor is
        none.
    """
    if cursor is not None and not _is_cursor(cursor):
        raise InputRefused("That is no cursor of an export.")
    if file == STANDARD_OUTPUT:
        if resume:
            raise InputRefused("Only a file can be resumed; give --cursor to go on elsewhere.")
        yield Target(sys.stdout.buffer, file, cursor)
        return
    if file.exists() and not resume:
        raise CommandFailed(f"{file} is there already; --resume goes on with it.")
    with _file_troubles(file):
        out = file.open("r+b" if resume else "xb")
    try:
        with _file_troubles(file):
            found = Target(out, file, _cut_to_whole_rows(out, file) if resume else cursor)
        with _failure_told(found, file, is_new=not resume):
            yield found
    finally:
        with suppress(OSError):  # whatever was written was flushed at once, and told if it could not be
            out.close()


@contextmanager
def _failure_told(found: Target, file: Path, *, is_new: bool) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if found.rows:
            say(f"{count_of(found.rows, 'row')} written to {file}; --resume goes on after them.")
        elif is_new:
            file.unlink(missing_ok=True)
        raise


@contextmanager
def _file_troubles(file: Path) -> Iterator[None]:
    """Turn what the operating system says about a file into what the command says."""
    try:
        yield
    except BrokenPipeError:
        raise ReaderLeft from None
    except OSError as exc:
        where = "Standard output" if file == STANDARD_OUTPUT else file
        raise CommandFailed(f"{where} cannot be written: {reason(exc)}.") from None


def _cut_to_whole_rows(out: IO[bytes], file: Path) -> str | None:
    """Cut a file that is an export after its last whole row, go there, and return that row's cursor.

    Raises
    ------
    CommandFailed
        It is no export, and stays as it is.
    """
    # It brings the web framework along.
    from app.usage_export import COLUMNS

    heading, row = f"{','.join(COLUMNS)}\r\n".encode(), f'{{"{COLUMNS[0]}":"'.encode()
    is_csv = layout_of(file) == "csv"
    size = out.seek(0, os.SEEK_END)
    out.seek(max(0, size - _LAST_BYTES))
    last = out.read(_LAST_BYTES)
    out.seek(0)
    opening = out.readline(_LAST_BYTES)
    whole, _, rest = last.rpartition(b"\n")
    cursor = _cursor_of(whole.rpartition(b"\n")[2], file)
    if cursor is None:
        # Nothing but a heading at most, which comes again with the first row.
        is_export, size = len(last) == size and _begins(last, heading if is_csv else row), 0
    else:
        # CSV that began at a cursor has no heading.
        is_export = (is_csv and opening == heading) or _cursor_of(opening, file) is not None
        is_export, size = is_export and (is_csv or _begins(rest, row)), size - len(rest)
    if not is_export:
        raise CommandFailed(f"{file} does not end with a row of an export, so it cannot be resumed.")
    out.truncate(size)
    out.seek(size)
    return cursor


def _begins(text: bytes, start: bytes) -> bool:
    """Tell whether a text is the beginning of a start, or a start and then part of one line."""
    return start.startswith(text) or (text.startswith(start) and b"\n" not in text[len(start) :])


def _cursor_of(line: bytes, file: Path) -> str | None:
    """Return the cursor of a row, None if the line is none."""
    try:
        if layout_of(file) == "csv":
            cursor = line.decode().rstrip().rpartition(",")[2]
        else:
            cursor = msgspec.json.decode(line, type=_Row).cursor
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return None
    return cursor if _is_cursor(cursor) else None


def _is_cursor(text: str) -> bool:
    from app.cursors import place_of
    from domain.usage_rows import RowPlace

    try:
        place_of(text, RowPlace)
    except ValueError:
        return False
    return True
