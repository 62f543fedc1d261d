"""`usage reconcile`: what is printed, and how it ends. What it finds is tested in tests/app/reconcile."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import msgspec
import pytest

from app.gateway.journal import layout
from app.gateway.journal.entry import encode_record
from app.reconcile.findings import EXPLANATIONS, FindingKind
from domain.usage_spans import first_of_month
from tests.app.cli.conftest import CommandLine
from tests.support.servers import Databases
from tests.support.usage import admission, settlement

RECONCILE = ("usage", "reconcile")


@pytest.fixture
def journals(cli: CommandLine, tmp_path: Path) -> Path:
    """Name a directory for journals."""
    directory = tmp_path / "journal"
    cli.set(GATEWAY_JOURNAL_DIR=str(directory))
    return directory


def leave_record(directory: Path, *, spoiled: bool = False) -> str:
    """Leave a record that the worker refused, and something unreadable if `spoiled`; return the request's id."""
    started_at = datetime.now(UTC) - timedelta(minutes=1)
    request = msgspec.structs.replace(admission(), started_at=started_at, period=first_of_month(started_at))
    record = encode_record(layout.encoder.encode(request), settlement())
    directory.mkdir()
    name = f"01900000-0000-7000-8000-000000000000.00000001.1-{1 + spoiled}.rejected"
    (directory / name).write_bytes(record + b"\xc0" * spoiled)
    return str(request.request_id)


async def test_where_nothing_differs_it_says_what_it_compared(cli: CommandLine, journals: Path) -> None:
    outcome = await cli.good(*RECONCILE)

    assert outcome.out == "Nothing differs.\n"
    assert outcome.err.startswith(f"Compared: 0 journals in {journals}, the stream, rows and sums since ")


async def test_a_difference_is_shown_explained_and_then_closed(cli: CommandLine, journals: Path) -> None:
    leave_record(journals)
    told = await cli(*RECONCILE)
    repaired = await cli(*RECONCILE, "--repair")
    again = await cli.good(*RECONCILE)

    assert told.code == 1
    assert told.out.splitlines()[0].split() == ["finding", "where", "how", "much"]
    assert "1 of 1 record without a row" in told.out
    assert "records-rejected: The worker could not write these records" in told.out
    assert "--repair writes those that the database takes" in told.out
    assert repaired.code == 0
    assert "1 of 1 written into the ledger, file deleted" in repaired.out
    assert repaired.out.endswith("Nothing differs any more.\n")
    assert again.out == "Nothing differs.\n"


async def test_what_is_left_after_a_repair_is_named(cli: CommandLine, journals: Path) -> None:
    leave_record(journals, spoiled=True)
    outcome = await cli(*RECONCILE, "--repair")

    assert outcome.code == 1
    left = outcome.out.partition("Left:\n")[2].splitlines()[1]
    assert left.startswith("records-rejected")
    assert left.endswith("0 of 1 record without a row, 1 unreadable")


async def test_the_keys_of_the_json_are_stable(cli: CommandLine, journals: Path) -> None:
    request_id = leave_record(journals)
    outcome = await cli(*RECONCILE, "--repair", "--json")
    report = json.loads(outcome.out)

    assert outcome.code == 0
    assert set(report) == {"compared", "findings", "left"}
    assert set(report["compared"]) == {
        "since", "now", "directory", "journals_held", "journals_left", "processes", "open_requests", "records",
        "tenants",
    }  # fmt: skip
    (finding,) = report["findings"]
    assert set(finding) == {
        "kind", "where", "how_much", "figures", "requests", "means", "repair", "advice", "done",
    }  # fmt: skip
    assert (finding["kind"], finding["requests"]) == ("records-rejected", [request_id])
    assert finding["figures"] == {"records": 1, "tokens": 8, "readable": 1, "unreadable": 0}
    assert report["left"] == []


@pytest.mark.parametrize("since", ["yesterday", "2999-01-01"])
@pytest.mark.usefixtures("journals")
async def test_bad_input_exits_with_2(cli: CommandLine, since: str) -> None:
    outcome = await cli(*RECONCILE, "--since", since)

    assert outcome.code == 2
    assert outcome.refusal


async def test_a_relative_directory_of_journals_exits_with_2(cli: CommandLine) -> None:
    cli.set(GATEWAY_JOURNAL_DIR="journal")
    outcome = await cli(*RECONCILE)

    assert (outcome.code, outcome.refusal) == (2, "GATEWAY_JOURNAL_DIR must be an absolute path.")


async def test_journals_that_cannot_be_read_exit_with_2(cli: CommandLine, journals: Path) -> None:
    # Root may read everything; a directory in the place of a file nobody can.
    await anyio.Path(journals / "x.1-1.rejected").mkdir(parents=True)
    outcome = await cli(*RECONCILE)

    assert outcome.code == 2
    assert outcome.refusal == (
        f"The journals in {journals} cannot be read: is a directory."
        " Run this as the gateway's user, or set GATEWAY_JOURNAL_DIR."
    )


@pytest.mark.usefixtures("journals")
async def test_a_redis_that_is_away_is_one_sentence(cli: CommandLine) -> None:
    cli.set(REDIS_URL="redis://127.0.0.1:1/0")
    outcome = await cli(*RECONCILE)

    assert (outcome.code, outcome.refusal) == (1, "Redis at 127.0.0.1:1 cannot be used: connection refused.")


@pytest.mark.usefixtures("journals")
async def test_a_database_of_an_older_release_is_told(
    cli: CommandLine, postgres: Databases, database_url: str
) -> None:
    postgres.execute("DROP TABLE usage_touched_hours", url=database_url)
    outcome = await cli(*RECONCILE)

    assert outcome.code == 1
    assert "run `neuronetz-gateway migrate`" in outcome.refusal


def test_every_kind_of_finding_is_explained_here_and_in_the_document() -> None:
    document = (Path(__file__).parents[3] / "docs" / "accounting.md").read_text(encoding="utf-8")

    assert set(EXPLANATIONS) == set(FindingKind)
    assert [kind for kind in FindingKind if f"`{kind.value}`" not in document] == []
