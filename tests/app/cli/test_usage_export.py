"""`usage --export`: single rows as a file, whole and in order, also after it broke off."""

import csv
import json
from datetime import timedelta
from pathlib import Path
from typing import IO

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.failure import CommandFailed
from app.cli.usage_file import Target
from db.usage import UsageRows
from tests.app.cli.conftest import CommandLine
from tests.support.ledger_records import DAY, record
from tests.support.rows import add_acme

ROWS = 7
EXPORT = ("usage", "--until", "2031-06-30", "--export")


@pytest.fixture(autouse=True)
async def ledger(database_url: str, engine: AsyncEngine) -> None:
    """Seven requests of one tenant, an hour apart."""
    connection = await asyncpg.connect(database_url)
    await add_acme(connection)
    await connection.close()
    await UsageRows(engine).insert_batch([record(DAY + timedelta(hours=hour)) for hour in range(ROWS)])


def ids(file: Path) -> list[str]:
    if file.suffix == ".csv":
        with file.open(newline="") as source:
            return [row["requestId"] for row in csv.DictReader(source)]
    return [json.loads(line)["requestId"] for line in file.read_text().splitlines()]


@pytest.mark.parametrize("name", ["rows.ndjson", "rows.csv"])
async def test_every_row_is_there_once(cli: CommandLine, tmp_path: Path, name: str) -> None:
    file = tmp_path / name

    outcome = await cli.good(*EXPORT, str(file))

    assert outcome.out == f"7 rows written to {file}.\n"
    assert len(set(ids(file))) == len(ids(file)) == ROWS


async def test_span_and_tenant_leave_rows_out(cli: CommandLine, tmp_path: Path) -> None:
    await cli.good("tenants", "create", "other")
    words = (*EXPORT[:1], "--json", "--export")
    later = ("--until", "2031-06-30")

    one_day = await cli.good(*words, str(tmp_path / "a"), "--since", "2031-05-30", "--until", "2031-05-30")
    other = await cli.good(*words, str(tmp_path / "b"), "--tenant", "other", *later)

    assert one_day.json == {"file": str(tmp_path / "a"), "rows": 2}
    assert other.json["rows"] == 0


@pytest.mark.parametrize("name", ["rows.ndjson", "rows.csv"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.4, 0.95, 1.0])
async def test_a_file_that_broke_off_anywhere_is_made_whole(
    cli: CommandLine, tmp_path: Path, name: str, kept: float
) -> None:
    whole, broken = tmp_path / f"whole-{name}", tmp_path / name
    await cli.good(*EXPORT, str(whole))
    content = whole.read_bytes()
    broken.write_bytes(content[: int(kept * len(content))])

    await cli.good(*EXPORT, str(broken), "--resume")

    assert broken.read_bytes() == content


async def test_a_file_is_never_overwritten(cli: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "rows.ndjson"
    file.write_text("precious\n")

    again = await cli(*EXPORT, str(file))

    assert again.code == 1
    assert "--resume" in again.refusal
    assert file.read_text() == "precious\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "precious"),
        ("p.txt", "precious\n"),
        ("p.txt", '{"cursor":"precious"}\n'),
        ("p.txt", '{"requestId":"precious\nnotes'),
        ("p.txt", '{"requestId":' * 100_000),
        ("p.csv", "precious"),
        ("p.csv", "my,header"),
        ("p.csv", "my,header\n"),
        ("p.csv", "my,header\n1,2\n"),
        ("p.csv", "requestId,precious\n"),
    ],
)
async def test_what_is_no_export_is_not_resumed_and_stays(
    cli: CommandLine, tmp_path: Path, name: str, content: str
) -> None:
    file = tmp_path / name
    file.write_text(content)

    resumed = await cli(*EXPORT, str(file), "--resume")

    assert file.read_text() == content
    assert resumed.code == 1
    assert "does not end with a row" in resumed.refusal


@pytest.mark.parametrize("name", ["rows.ndjson", "rows.csv"])
async def test_other_lines_before_the_rows_are_left_alone(
    cli: CommandLine, tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    await cli.good(*EXPORT, str(file))
    content = b"precious\n" + file.read_bytes() + b"pre"
    file.write_bytes(content)

    resumed = await cli(*EXPORT, str(file), "--resume")

    assert (resumed.code, file.read_bytes()) == (1, content)


async def test_csv_that_began_at_a_cursor_is_resumed(cli: CommandLine, tmp_path: Path) -> None:
    whole, later = tmp_path / "whole.csv", tmp_path / "later.csv"
    await cli.good(*EXPORT, str(whole))
    _, first, *rest = whole.read_bytes().splitlines(keepends=True)
    later.write_bytes(b"".join(rest)[:-200])

    await cli.good(*EXPORT, str(later), "--resume")

    assert later.read_bytes() == b"".join(rest)
    assert first not in rest


@pytest.mark.parametrize("resume", [True, False])
async def test_a_ledger_out_of_reach_is_named_and_leaves_the_files_as_they_were(
    cli: CommandLine, tmp_path: Path, *, resume: bool
) -> None:
    file = tmp_path / "rows.csv"
    if resume:
        await cli.good(*EXPORT, str(file))
    before = file.read_bytes() if resume else None
    cli.set(DATABASE_URL="postgresql://u:p@127.0.0.1:1/x")

    outcome = await cli(*EXPORT, str(file), *(["--resume"] if resume else []))

    assert outcome.code == 1
    assert "Postgres at 127.0.0.1:1 cannot be reached: connection refused" in outcome.refusal
    assert (file.read_bytes() if file.exists() else None) == before


def _full_disk() -> IO[bytes]:
    return Path("/dev/full").open("wb", buffering=0)


async def test_a_full_disk_is_a_fault_of_the_file() -> None:
    said = r"rows\.csv cannot be written: no space left"

    with _full_disk() as out, pytest.raises(CommandFailed, match=said):
        Target(out, Path("rows.csv"), None).write(b"a row\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--resume",), "go with --export"),
        (("--export", "{}/x", "--chart", "tokens"), "not both"),
        (("--export", "{}/x", "--cursor", "made-up"), "no cursor"),
        (("--export", "{}/x", "--cursor", "made-up", "--resume"), "leave --cursor out"),
        (("--export", "{}/x", "--by", "tenant"), "--by"),
        (("--export", "-", "--resume"), "Only a file"),
    ],
)
async def test_bad_input_exits_with_2(
    cli: CommandLine, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    outcome = await cli("usage", *(word.format(tmp_path) for word in words))

    assert outcome.code == 2
    assert said in outcome.refusal
    assert not (tmp_path / "x").exists()


async def test_a_directory_that_is_not_there_is_told(cli: CommandLine, tmp_path: Path) -> None:
    outcome = await cli(*EXPORT, str(tmp_path / "gone" / "rows.csv"))

    assert outcome.code == 1
    assert "cannot be written: no such file or directory" in outcome.refusal
