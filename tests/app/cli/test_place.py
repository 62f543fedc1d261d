"""Which gateway a command acts on, and what it says when there is none."""

import os
from pathlib import Path

import pytest

from app.cli.place import store_address
from app.embedded.running import Running, announce
from tests.app.cli.conftest import PEPPER, CommandLine
from tests.support.servers import Databases

LONG_GONE = 2**22 + 1  # above what Linux ever gives out


def leave_note(state_dir: Path, database_url: str, *, pid: int | None = None) -> None:
    """Leave what a running `up` leaves; its process is this one."""
    state_dir.mkdir(parents=True, exist_ok=True)
    environment = {"DATABASE_URL": database_url, "GATEWAY_KEY_PEPPER": PEPPER, "GATEWAY_PORT": "49999"}
    announce(state_dir, Running(pid or os.getpid(), "http://127.0.0.1:49999", environment))


@pytest.fixture
def default_state_dir(tmp_path: Path) -> Path:
    return tmp_path / "xdg" / "neuronetz-gateway"


async def test_without_settings_the_running_up_is_meant(
    bare: CommandLine, database_url: str, default_state_dir: Path
) -> None:
    leave_note(default_state_dir, database_url)

    await bare.good("tenants", "create", "research")
    key = await bare.good("keys", "create", "laptop", "--tenant", "research")

    assert "http://127.0.0.1:49999/" in key.err


async def test_another_state_directory_can_be_named_and_stays_in_the_hints(
    bare: CommandLine, database_url: str, tmp_path: Path
) -> None:
    leave_note(tmp_path / "other", database_url)

    outcome = await bare.good("tenants", "list", "--state-dir", str(tmp_path / "other"))

    assert f"tenants create SLUG --state-dir {tmp_path / 'other'}" in outcome.err


async def test_a_named_state_directory_wins_over_the_environment(
    cli: CommandLine, postgres: Databases, migrated_template: str, tmp_path: Path
) -> None:
    await cli.good("tenants", "create", "here")
    there = postgres.create(template=migrated_template)
    leave_note(tmp_path / "other", there)

    outcome = await cli.good("tenants", "list", "--json", "--state-dir", str(tmp_path / "other"))

    postgres.drop(there)
    assert outcome.json == {"tenants": []}


async def test_with_nothing_running_it_says_what_to_do(bare: CommandLine) -> None:
    outcome = await bare("tenants", "list")

    assert outcome.code == 1
    for way_out in ("neuronetz-gateway up", "--state-dir", "DATABASE_URL"):
        assert way_out in outcome.refusal


async def test_the_note_of_a_killed_up_does_not_count(
    bare: CommandLine, database_url: str, default_state_dir: Path
) -> None:
    leave_note(default_state_dir, database_url, pid=LONG_GONE)

    assert (await bare("tenants", "list")).code == 1


async def test_a_named_directory_without_up_is_told(bare: CommandLine, tmp_path: Path) -> None:
    outcome = await bare("tenants", "list", "--state-dir", str(tmp_path))

    assert outcome.code == 1
    assert str(tmp_path) in outcome.refusal


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("postgresql://u:testpassword@127.0.0.1:1/x", 1, "cannot be reached: connection refused"),
        ("mysql://u:testpassword@127.0.0.1/x", 2, "DATABASE_URL must be an address"),
    ],
)
async def test_a_database_out_of_reach_is_one_sentence(
    bare: CommandLine, url: str, code: int, said: str
) -> None:
    bare.set(DATABASE_URL=url)

    outcome = await bare("tenants", "list")

    assert outcome.code == code
    assert said in outcome.refusal


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("testpassword", "canary"), "refused the user name or the password"),
        (("/test_", "/canary_"), "has no database of the name"),
    ],
)
async def test_what_postgres_refuses_is_told_without_repeating_it(
    bare: CommandLine, database_url: str, change: tuple[str, str], said: str
) -> None:
    bare.set(DATABASE_URL=database_url.replace(*change))

    outcome = await bare("tenants", "list")

    assert outcome.code == 1
    assert said in outcome.refusal
    assert "canary" not in outcome.refusal


def test_of_sentinels_is_shown_where_they_are_and_no_password() -> None:
    assert store_address("redis+sentinel://:secret@a:1,b:2/main/0") == "the primary that a:1,b:2 know"
