"""Exports: whole lines in both formats, resumed anywhere without a gap, and nothing that a spreadsheet would run."""

import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import timedelta

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cursors import place_of
from app.usage_export import COLUMNS, PAGE_ROWS, ExportFormat, export
from db.postgres import create_engine
from db.usage import UsageRows
from db.usage_rows import LedgerRows
from domain.usage import UsageRecord
from domain.usage_rows import RowPlace, UsageFilter
from tests.support.ledger_records import DAY, admission, settlement
from tests.support.servers import Databases

NDJSON, CSV = ExportFormat.NDJSON, ExportFormat.CSV
EVERYTHING = UsageFilter(DAY - timedelta(days=1), DAY + timedelta(days=1))
ROWS = PAGE_ROWS + 7


@pytest.fixture(scope="module")
async def engine(postgres: Databases, migrated_template: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(postgres.create(template=migrated_template), application_name="test")
    yield engine
    await engine.dispose()


@pytest.fixture(scope="module")
async def written(engine: AsyncEngine) -> list[UsageRecord]:
    """Write a page and a bit; the first row names a formula, as a client may."""
    records = [UsageRecord(admission(), settlement()) for _ in range(ROWS)]
    formula = msgspec.structs.replace(records[0].admission, client_request_id='=HYPERLINK("x")')
    records[0] = UsageRecord(formula, settlement(backend=None))
    await UsageRows(engine).insert_batch(records)
    return records


async def exported(engine: AsyncEngine, form: ExportFormat, *, after: RowPlace | None = None) -> list[str]:
    pieces = [piece async for piece in export(LedgerRows(engine), EVERYTHING, form=form, after=after)]
    assert all(piece.endswith(b"\n") for piece in pieces)
    return b"".join(pieces).decode().splitlines(keepends=True)


async def test_every_row_is_a_line(engine: AsyncEngine, written: list[UsageRecord]) -> None:
    lines = await exported(engine, NDJSON)

    ids = [json.loads(line)["requestId"] for line in lines]
    assert ids == [str(record.admission.request_id) for record in written]


async def test_csv_says_the_same_under_the_same_names(
    engine: AsyncEngine, written: list[UsageRecord]
) -> None:
    del written
    table = list(csv.DictReader(io.StringIO("".join(await exported(engine, CSV)), newline="")))
    rows = [json.loads(line) for line in await exported(engine, NDJSON)]

    assert len(table) == len(rows) == ROWS
    for cells, row in zip(table[1:], rows[1:], strict=True):
        assert tuple(cells) == tuple(row) == COLUMNS
        assert cells["attemptedBackends"].split() == row["attemptedBackends"]
        for name, value in row.items():
            if name != "attemptedBackends":
                text = value if isinstance(value, str) else "" if value is None else json.dumps(value)
                assert cells[name] == text


async def test_no_cell_is_a_formula(engine: AsyncEngine, written: list[UsageRecord]) -> None:
    del written
    first = next(csv.DictReader(io.StringIO("".join(await exported(engine, CSV)), newline="")))

    assert first["clientRequestId"] == """'=HYPERLINK("x")"""
    assert (first["backend"], first["estimated"]) == ("", "false")


@pytest.mark.parametrize("form", [NDJSON, CSV])
@pytest.mark.parametrize("read", [1, PAGE_ROWS, ROWS])
async def test_a_resumed_export_goes_on_after_the_last_line_that_was_read(
    engine: AsyncEngine, written: list[UsageRecord], form: ExportFormat, read: int
) -> None:
    del written
    whole = await exported(engine, form)
    header = 1 if form is CSV else 0
    last = whole[header + read - 1]
    cursor = json.loads(last)["cursor"] if form is NDJSON else next(csv.reader([last]))[-1]

    rest = await exported(engine, form, after=place_of(cursor, RowPlace))

    assert whole == whole[: header + read] + rest


async def test_nothing_is_an_empty_file_and_a_csv_of_its_columns(engine: AsyncEngine) -> None:
    nothing = UsageFilter(DAY - timedelta(days=9), DAY - timedelta(days=8))

    files = [
        b"".join([piece async for piece in export(LedgerRows(engine), nothing, form=form)])
        for form in (NDJSON, CSV)
    ]

    assert files == [b"", ",".join(COLUMNS).encode() + b"\r\n"]
