"""The mirror of the revocations: every row once, whatever dies, and readable afterwards."""

import asyncio
import json
import multiprocessing
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from db.postgres import create_engine
from db.revocation_mirror import PAGE_ROWS, RevocationMirror
from db.revocations import Revocations
from tests.support.counts import count
from tests.support.rows import ACME, ONE, TWO, add_acme

FLIP = "UPDATE api_keys SET path_allowed = NOT path_allowed WHERE id = $1"
MANY = """
    INSERT INTO revocations (seq, scope, id)
    SELECT (SELECT max(seq) FROM revocations) + n, 'key', gen_random_uuid() FROM generate_series(1, $1::int) AS n
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "revocations.jsonl"


@pytest.fixture
def source(engine: AsyncEngine) -> Revocations:
    return Revocations(engine)


@pytest.fixture(autouse=True)
async def acme(sql: asyncpg.Connection) -> None:
    await add_acme(sql)


async def numbers(sql: asyncpg.Connection) -> list[int]:
    return [row["seq"] for row in await sql.fetch("SELECT seq FROM revocations ORDER BY seq")]


def has_begun(path: Path) -> bool:
    return path.exists()


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def last_line(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(path.read_text().splitlines()[-1])
    return found


def put_line(path: Path, line: dict[str, object]) -> None:
    path.write_text(json.dumps(line) + "\n")


def tear(path: Path, kept: int) -> None:
    """Keep so many bytes of the last line; a negative number takes some from its end."""
    whole = path.read_bytes()
    start = whole.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(whole[: start + kept] if kept > 0 else whole[:kept])


def written(path: Path) -> list[int]:
    return [line.seq for line in RevocationMirror(path).lines()]


async def test_a_new_mirror_gets_the_whole_sequence(
    path: Path, source: Revocations, sql: asyncpg.Connection
) -> None:
    await RevocationMirror(path).catch_up(source.since)

    assert written(path) == await numbers(sql)


async def test_a_row_is_written_once(path: Path, source: Revocations, sql: asyncpg.Connection) -> None:
    mirror = RevocationMirror(path)
    await mirror.catch_up(source.since)
    await sql.execute(FLIP, ONE)
    await mirror.catch_up(source.since)
    await RevocationMirror(path).catch_up(source.since)

    assert written(path) == await numbers(sql)


async def test_more_rows_than_a_page_are_all_written(
    path: Path, source: Revocations, sql: asyncpg.Connection
) -> None:
    await sql.execute(MANY, 2 * PAGE_ROWS)
    await RevocationMirror(path).catch_up(source.since)

    assert written(path) == await numbers(sql)


async def test_a_line_holds_what_the_row_says(
    path: Path, source: Revocations, sql: asyncpg.Connection
) -> None:
    await sql.execute("UPDATE api_keys SET status = 'revoked' WHERE id = $1", ONE)
    await RevocationMirror(path).catch_up(source.since)

    row = await sql.fetchrow("SELECT * FROM revocations ORDER BY seq DESC LIMIT 1")
    assert row is not None
    assert last_line(path) == {
        "seq": row["seq"],
        "scope": "key",
        "id": str(ONE),
        "at": row["at"].isoformat().replace("+00:00", "Z"),
        "usable": False,
    }


@pytest.mark.parametrize(
    ("change", "subject"),
    [
        (f"UPDATE api_keys SET status = 'revoked' WHERE id = '{ONE}'", (ONE, False)),
        (f"UPDATE api_keys SET expires_at = now() - interval '1 s' WHERE id = '{ONE}'", (ONE, False)),
        (f"DELETE FROM api_keys WHERE id = '{ONE}'", (ONE, False)),
        ("UPDATE tenants SET status = 'suspended'", (ACME, False)),
        ("DELETE FROM tenants", (ACME, False)),
        ("UPDATE tenant_limits SET rpm = 1", (ACME, True)),
        (f"UPDATE api_keys SET expires_at = now() + interval '1 h' WHERE id = '{ONE}'", (ONE, True)),
        (f"DELETE FROM model_grants WHERE key_id = '{ONE}'", (ONE, True)),
    ],
)
async def test_a_line_says_whether_its_subject_still_works(
    path: Path, source: Revocations, sql: asyncpg.Connection, change: str, subject: tuple[UUID, bool]
) -> None:
    await sql.execute(change)
    await RevocationMirror(path).catch_up(source.since)

    last = {line.id: line.usable for line in RevocationMirror(path).lines()}
    assert subject in last.items()


@pytest.mark.parametrize("torn", [1, 10, 60, -2])
async def test_a_torn_last_line_costs_no_row(
    path: Path, source: Revocations, sql: asyncpg.Connection, torn: int
) -> None:
    mirror = RevocationMirror(path)
    await mirror.catch_up(source.since)
    tear(path, torn)

    await sql.execute(FLIP, TWO)
    await mirror.catch_up(source.since)

    assert written(path) == await numbers(sql)


async def test_a_line_without_its_line_break_counts(
    path: Path, source: Revocations, sql: asyncpg.Connection
) -> None:
    mirror = RevocationMirror(path)
    await mirror.catch_up(source.since)
    tear(path, -1)

    await sql.execute(FLIP, TWO)
    await mirror.catch_up(source.since)

    assert written(path) == await numbers(sql)


async def test_after_a_restore_rows_with_old_numbers_are_added(
    path: Path, source: Revocations, sql: asyncpg.Connection
) -> None:
    """The restored sequence gives numbers again that the mirror has already; they are other revocations."""
    lost = {"seq": 10_000, "scope": "key", "id": str(ONE), "at": "2026-01-01T00:00:00Z", "usable": False}
    put_line(path, lost)

    mirror = RevocationMirror(path)
    await mirror.catch_up(source.since)
    await mirror.catch_up(source.since)

    assert written(path) == [10_000, *await numbers(sql)]


async def test_a_mirror_that_was_never_written_has_no_lines(path: Path) -> None:
    assert list(RevocationMirror(path).lines()) == []
    assert not has_begun(path)


async def test_only_its_owner_can_read_it(path: Path) -> None:
    RevocationMirror(path).last()

    assert mode_of(path) == 0o600


def _mirror_in_a_process(path: Path, url: str, rounds: int) -> None:
    async def work() -> None:
        engine = create_engine(url, application_name="test", pool_size=1)
        mirror = RevocationMirror(path)
        for _ in range(rounds):
            await mirror.catch_up(Revocations(engine).since)
        await engine.dispose()

    asyncio.run(work())


async def test_two_workers_on_one_file_write_each_row_once(
    path: Path, database_url: str, sql: asyncpg.Connection
) -> None:
    rounds = count(50, 1000)
    spawn = multiprocessing.get_context("spawn")
    workers = [
        spawn.Process(target=_mirror_in_a_process, args=(path, database_url, rounds)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        await sql.execute(FLIP, ONE)
    for worker in workers:
        worker.join()
    await RevocationMirror(path).catch_up(
        Revocations(engine := create_engine(database_url, application_name="test")).since
    )
    await engine.dispose()

    assert [worker.exitcode for worker in workers] == [0, 0]
    assert written(path) == await numbers(sql)
