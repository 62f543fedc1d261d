"""The ledger as a file: newline-delimited JSON or CSV, oldest request first, in pieces that nobody has to hold at once.

Each row carries the cursor that goes on after it, so an export that broke off is resumed after its last whole line.
"""

import csv
import io
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from app.admin.usage_contract import UsageRow, fields_of
from app.cursors import cursor_at
from db.usage_rows import LedgerRows
from domain import usage_rows as domain
from domain.usage_rows import RowPlace, UsageFilter

PAGE_ROWS: Final = 500
"""Made into lines within some ten milliseconds, for which everything else in the process waits."""

_encoder: Final = msgspec.json.Encoder()


class ExportFormat(StrEnum):
    """What the lines look like."""

    NDJSON = "ndjson"
    CSV = "csv"


class ExportedUsageRow(UsageRow):
    """One row of the ledger as a line of an export."""

    cursor: Annotated[str, Meta(description="Resumes the export after this row.")]


COLUMNS: Final = tuple(field.encode_name for field in msgspec.structs.fields(ExportedUsageRow))
"""The fields of a row, and the columns of a CSV file."""


async def export(
    rows: LedgerRows, wanted: UsageFilter, *, form: ExportFormat, after: RowPlace | None = None
) -> AsyncIterator[bytes]:
    """Yield the export in pieces of whole lines; between two of them nothing is held, not even a connection.

    Parameters
    ----------
    rows
        The ledger. What it raises passes through.
    wanted
        Which rows.
    form
        What the lines look like. CSV begins with the names of its columns, unless it is resumed.
    after
        Where to go on; None begins with the oldest row.
    """
    if form is ExportFormat.CSV and after is None:
        yield _csv([COLUMNS])
    more = True
    while more:
        page = await rows.page(wanted, after=after, limit=PAGE_ROWS)
        if page:
            yield _lines(page, form)
            after = page[-1].place
        more = len(page) == PAGE_ROWS


def _lines(page: Sequence[domain.UsageRow], form: ExportFormat) -> bytes:
    exported = [ExportedUsageRow(**fields_of(row), cursor=cursor_at(row.place)) for row in page]
    if form is ExportFormat.NDJSON:
        return _encoder.encode_lines(exported)
    return _csv([_cell(value) for value in msgspec.structs.astuple(row)] for row in exported)


def _csv(lines: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    """Return a value as it stands in a cell: nothing that a spreadsheet would take for a formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, tuple):
        value = " ".join(value)
    text = str(value)
    return f"'{text}" if text[:1] in _FORMULAS else text


_FORMULAS: Final = frozenset("=+-@\t\r\n")
"""With these a spreadsheet believes that a formula begins; an apostrophe before it makes it text."""
