"""`restore-fence` and `keys revoke --wait`: what they do is tested with the database; here, what they say."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from db.redis.connection import connect_patient
from db.redis.revocation_channel import RevocationNews
from db.tasks import end
from tests.app.cli.conftest import CommandLine
from tests.support.rows import ONE, add_acme

LOST = (
    '{"seq":500,"scope":"key","id":"00000000-0000-7000-8000-000000000001",'
    '"at":"2026-01-01T00:00:00Z","usable":false}\n'
)


@pytest.fixture
async def prefix(database_url: str) -> str:
    """Add a tenant with two keys and give the prefix of the first."""
    connection = await asyncpg.connect(database_url)
    await add_acme(connection)
    prefix: str = await connection.fetchval("SELECT prefix FROM api_keys WHERE id = $1", ONE)
    await connection.close()
    return prefix


@asynccontextmanager
async def process(redis_url: str, name: str, seq: int) -> AsyncIterator[None]:
    """Let a process report that number while the block runs."""
    async with connect_patient(SecretStr(redis_url)) as redis:
        news = RevocationNews(redis, process_id=name)
        await news.report(seq)

        async def report() -> None:
            while True:
                await news.report(seq)
                await asyncio.sleep(1)

        reporting = asyncio.create_task(report())
        yield
        await end(reporting)


async def test_revoke_says_how_many_confirmed_and_when(cli: CommandLine, redis_url: str, prefix: str) -> None:
    async with process(redis_url, "host:1:a", 1000), process(redis_url, "host:2:b", 1000):
        outcome = await cli.good("keys", "revoke", prefix, "--wait")

    assert "is revoked" in outcome.out
    assert "Confirmed by 2 processes after" in outcome.out


async def test_revoke_names_who_did_not_confirm_and_fails(
    cli: CommandLine, redis_url: str, prefix: str
) -> None:
    async with process(redis_url, "host:1:a", 1000), process(redis_url, "host:2:b", 0):
        outcome = await cli("keys", "revoke", prefix, "--wait")

    assert outcome.code == 1
    assert "is revoked" in outcome.out
    # Five seconds, and what a busy machine adds.
    assert re.search(r"Not confirmed after \d+\.\d s by host:2:b \(1 process did\)", outcome.out)
    assert "2 seconds at most" in outcome.out


async def test_revoke_without_redis_says_what_the_bound_is(cli: CommandLine, prefix: str) -> None:
    cli.set(REDIS_URL="redis://127.0.0.1:1/0")

    outcome = await cli("keys", "revoke", prefix, "--wait")

    assert outcome.code == 1
    assert "is revoked" in outcome.out
    assert "Redis cannot be reached, so no process can confirm it" in outcome.out
    assert "2 seconds at most" in outcome.out


async def test_revoke_where_nothing_runs_waits_for_nobody(cli: CommandLine, prefix: str) -> None:
    outcome = await cli.good("keys", "revoke", prefix, "--wait")

    assert "No app process runs" in outcome.out


async def test_revoke_tells_machines_who_confirmed(cli: CommandLine, redis_url: str, prefix: str) -> None:
    async with process(redis_url, "host:1:a", 1000):
        outcome = await cli.good("keys", "revoke", prefix, "--wait", "--json")

    found = outcome.json["confirmation"]
    assert (found["confirmed"], found["missing"], found["seconds"] < 5) == (["host:1:a"], [], True)


async def test_revoke_needs_no_redis_unless_it_waits(cli: CommandLine, prefix: str) -> None:
    cli.set(REDIS_URL="")

    await cli.good("keys", "revoke", prefix)


async def test_the_fence_tells_what_it_revoked_again(cli: CommandLine, prefix: str, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    _write(mirror, LOST)
    cli.set(GATEWAY_REVOCATION_MIRROR=str(mirror))

    outcome = await cli.good("restore-fence")

    assert "goes on from 1000500" in outcome.out
    assert f"Revoked again: {prefix}." in outcome.out
    assert "No app process runs" in outcome.out


async def test_the_fence_says_that_nothing_was_to_be_revoked(
    cli: CommandLine, prefix: str, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror"
    _write(mirror, LOST)
    cli.set(GATEWAY_REVOCATION_MIRROR=str(mirror))
    await cli.good("restore-fence")

    outcome = await cli.good("restore-fence")

    assert prefix not in outcome.out
    assert "No key and no tenant had to be revoked again." in outcome.out


@pytest.mark.usefixtures("prefix")
async def test_the_fence_names_what_nobody_can_repeat(cli: CommandLine, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    _write(mirror, LOST.replace("false", "true"))
    cli.set(GATEWAY_REVOCATION_MIRROR=str(mirror))

    outcome = await cli.good("restore-fence")

    assert "look at their grants and limits: key nng_" in outcome.out


async def test_the_fence_without_a_mirror_says_what_it_cannot_know(cli: CommandLine) -> None:
    outcome = await cli.good("restore-fence")

    assert "nobody knows what was revoked after the backup" in outcome.err


async def test_the_fence_says_that_a_mirror_is_empty(cli: CommandLine, prefix: str, tmp_path: Path) -> None:
    """A worker makes one wherever it finds none."""
    mirror = tmp_path / "mirror"
    mirror.touch()
    cli.set(GATEWAY_REVOCATION_MIRROR=str(mirror))

    empty = await cli.good("restore-fence")
    _write(mirror, LOST)
    right = await cli.good("restore-fence")

    assert "The mirror remembers nothing." in empty.err
    assert f"Revoked again: {prefix}." in right.out
    assert "remembers nothing" not in right.err


async def test_the_fence_tells_machines_everything(cli: CommandLine) -> None:
    found = (await cli.good("restore-fence", "--json")).json

    assert (found["fence"]["keys"], found["confirmation"]["missing"]) == ([], [])


@pytest.mark.parametrize(("url", "said"), [("redis://127.0.0.1:1/0", "Redis at 127.0.0.1:1 cannot be used")])
async def test_the_fence_needs_redis(cli: CommandLine, url: str, said: str) -> None:
    cli.set(REDIS_URL=url)

    outcome = await cli("restore-fence")

    assert outcome.code == 1
    assert said in outcome.refusal


async def test_a_mirror_that_is_not_there_is_no_empty_mirror(cli: CommandLine, tmp_path: Path) -> None:
    cli.set(GATEWAY_REVOCATION_MIRROR=str(tmp_path / "nowhere"))

    outcome = await cli("restore-fence")

    assert outcome.code == 1
    assert "There is no mirror" in outcome.refusal


async def test_a_mirror_that_is_no_file_is_refused(cli: CommandLine, tmp_path: Path) -> None:
    cli.set(GATEWAY_REVOCATION_MIRROR=str(tmp_path))

    outcome = await cli("restore-fence")

    assert outcome.code == 1
    assert "The mirror at" in outcome.refusal


def _write(path: Path, text: str) -> None:
    path.write_text(text)
