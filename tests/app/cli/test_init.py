"""`init`: secrets as files, one admin key, nothing ever overwritten."""

import stat
from pathlib import Path

import pytest

from db.app_role import AppRole
from db.key_lookup import KeyLookup
from db.postgres import create_engine
from domain.first_key import FirstKey
from domain.keys import PepperRing, parse
from domain.values import Role
from tests.app.cli.conftest import CommandLine


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "secrets"


def names(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


def modes(directory: Path) -> tuple[int, set[int]]:
    """Return the mode of a directory and those of its files."""
    return (
        stat.S_IMODE(directory.stat().st_mode),
        {stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()},
    )


def make(directory: Path, *, mode: int = 0o700) -> None:
    directory.mkdir()
    directory.chmod(mode)


async def test_without_a_database_the_digest_becomes_a_file(bare: CommandLine, directory: Path) -> None:
    key = (await bare.good("init", "--directory", str(directory))).out.strip()

    ring = PepperRing.parse((directory / "key_pepper").read_text().strip())
    first = FirstKey.parse((directory / "admin_key_digest").read_text())
    parsed = parse(key)
    assert parsed is not None
    assert parsed.role is Role.ADMIN
    assert (first.prefix, first.digest) == (parsed.prefix, ring.digests(key)[0])


async def test_only_the_owner_gets_at_the_files(bare: CommandLine, directory: Path) -> None:
    """Their own modes let the users of several containers read what is mounted into each."""
    await bare.good("init", "--directory", str(directory))

    assert names(directory) == [
        "admin_key_digest",
        "app_database_url",
        "database_url",
        "key_pepper",
        "metrics_token",
        "postgres_password",
        "redis_url",
        "valkey_password",
    ]
    assert modes(directory) == (0o700, {0o644})


async def test_a_directory_open_to_others_is_refused(bare: CommandLine, directory: Path) -> None:
    make(directory, mode=0o750)

    outcome = await bare("init", "--directory", str(directory))

    assert outcome.code == 1
    assert outcome.refusal == f"{directory} is open to other users; close it first: `chmod 700 {directory}`."
    assert names(directory) == []


async def test_the_stores_get_passwords_and_the_gateway_their_addresses(
    bare: CommandLine, directory: Path
) -> None:
    made = (await bare.good("init", "--directory", str(directory), "--json")).json

    written = {name: (directory / name).read_text().strip() for name in names(directory)}
    assert len({written["postgres_password"], written["valkey_password"]}) == 2
    assert written["database_url"] == (
        f"postgresql://gateway:{written['postgres_password']}@neuronetz-postgres:5432/gateway"
    )
    app = AppRole.parse(written["app_database_url"])
    assert app.name == "gateway_app"
    assert app.password not in written["database_url"]
    assert written["app_database_url"] == app.address(written["database_url"])
    assert written["redis_url"] == f"redis://:{written['valkey_password']}@neuronetz-redis:6379/0"
    assert made["store_files"] == [
        str(directory / name)
        for name in ("postgres_password", "valkey_password", "database_url", "app_database_url", "redis_url")
    ]


async def test_the_files_are_not_printed(bare: CommandLine, directory: Path) -> None:
    outcome = await bare.good("init", "--directory", str(directory))

    for name in names(directory):
        assert (directory / name).read_text().split()[-1] not in outcome.out + outcome.err


async def test_nothing_is_overwritten(bare: CommandLine, directory: Path) -> None:
    make(directory)
    (directory / "metrics_token").write_text("mine")

    outcome = await bare("init", "--directory", str(directory))

    assert outcome.code == 1
    assert "metrics_token" in outcome.refusal
    assert names(directory) == ["metrics_token"]
    assert (directory / "metrics_token").read_text() == "mine"


async def test_a_gateway_with_a_pepper_is_left_alone(bare: CommandLine, directory: Path) -> None:
    bare.set(GATEWAY_KEY_PEPPER="p1:x")

    outcome = await bare("init", "--directory", str(directory))

    assert outcome.code == 1
    assert names(directory.parent) == []


async def test_a_migrated_database_gets_the_key_at_once(
    cli: CommandLine, database_url: str, directory: Path
) -> None:
    cli.set(GATEWAY_KEY_PEPPER="")

    made = (await cli.good("init", "--directory", str(directory), "--json")).json

    ring = PepperRing.parse((directory / "key_pepper").read_text().strip())
    engine = create_engine(database_url, application_name="test")
    found = await KeyLookup(engine).find_by_digest(ring.digests(made["admin_key"]))
    await engine.dispose()
    assert found.principal is not None
    assert made["admin_key_in"] == "database"
    assert names(directory) == ["key_pepper", "metrics_token"]
    assert set(made) == {"admin_key", "prefix", "admin_key_in", "files", "store_files"}


async def test_a_database_with_admin_keys_is_left_alone(cli: CommandLine, directory: Path) -> None:
    await cli.good("keys", "create", "ops", "--admin")
    cli.set(GATEWAY_KEY_PEPPER="")

    outcome = await cli("init", "--directory", str(directory))

    assert outcome.code == 1
    assert "pepper" in outcome.refusal
    assert names(directory.parent) == []


async def test_a_database_out_of_reach_does_not_hinder(bare: CommandLine, directory: Path) -> None:
    bare.set(DATABASE_URL="postgresql://u:testpassword@127.0.0.1:1/x")

    made = (await bare.good("init", "--directory", str(directory), "--json")).json

    assert made["admin_key_in"] == "file"
    assert set(made["files"]) == {
        "GATEWAY_KEY_PEPPER_FILE",
        "GATEWAY_METRICS_TOKEN_FILE",
        "GATEWAY_ADMIN_KEY_DIGEST_FILE",
    }


async def test_what_init_wrote_is_what_the_other_commands_read(
    bare: CommandLine, database_url: str, directory: Path
) -> None:
    made = (await bare.good("init", "--directory", str(directory), "--json")).json

    bare.set(DATABASE_URL=database_url, **made["files"])
    added = (await bare.good("migrate", "--json")).json["admin_key_added"]
    await bare.good("keys", "create", "second", "--admin")

    assert added == made["prefix"]
    assert len((await bare.good("keys", "list", "--admin", "--json")).json["keys"]) == 2


async def test_a_place_that_cannot_be_written_is_named(bare: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    outcome = await bare("init", "--directory", str(tmp_path / "file" / "below"))

    assert outcome.code == 1
    assert str(tmp_path / "file" / "below") in outcome.refusal
