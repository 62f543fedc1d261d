"""`migrate`: tables, and the first admin key that `init` announced."""

from pathlib import Path

import asyncpg
import pytest

from db.key_lookup import KeyLookup
from db.migrate import head
from db.postgres import create_engine
from domain.first_key import FirstKey
from domain.keys import PepperRing, mint
from domain.values import Role
from tests.app.cli.conftest import PEPPER, CommandLine
from tests.support.servers import APP_ROLE

RING = PepperRing.parse(PEPPER)


@pytest.fixture
def empty(bare: CommandLine, empty_database_url: str) -> CommandLine:
    """Give a command line with a database that holds nothing."""
    bare.set(DATABASE_URL=empty_database_url, GATEWAY_KEY_PEPPER=PEPPER)
    return bare


async def test_an_empty_database_is_migrated_once(empty: CommandLine) -> None:
    assert (await empty("migrate", "--check")).code == 1

    first = (await empty.good("migrate", "--json")).json
    second = (await empty.good("migrate", "--json")).json

    assert first == {"revision": head(), "changed": True, "admin_key_added": None}
    assert second == {"revision": head(), "changed": False, "admin_key_added": None}
    assert (await empty.good("migrate", "--check", "--json")).json == {
        "revision": head(),
        "release": head(),
        "differences": [],
    }


async def test_another_command_on_an_empty_database_says_to_migrate(empty: CommandLine) -> None:
    outcome = await empty("tenants", "list")

    assert outcome.code == 1
    assert "neuronetz-gateway migrate" in outcome.refusal


async def test_a_database_of_another_program_is_left_alone(
    empty: CommandLine, empty_database_url: str
) -> None:
    connection = await asyncpg.connect(empty_database_url)
    await connection.execute("CREATE TABLE theirs (id int)")
    await connection.close()

    outcome = await empty("migrate")

    assert outcome.code == 1
    assert "theirs" in outcome.refusal


async def test_a_drift_is_told_and_exits_with_1(cli: CommandLine, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("ALTER TABLE tenants DROP COLUMN name")
    await connection.close()

    outcome = await cli("migrate", "--check")

    assert outcome.code == 1
    assert "name" in outcome.out


async def test_the_role_of_app_and_worker_is_made_and_cannot_migrate(
    empty: CommandLine, empty_database_url: str
) -> None:
    address = APP_ROLE.address(empty_database_url)
    empty.set(DATABASE_URL=address)
    refused = await empty("migrate")
    empty.set(DATABASE_URL=empty_database_url, GATEWAY_APP_DATABASE_URL=address)
    await empty.good("migrate")
    empty.set(DATABASE_URL=address, GATEWAY_APP_DATABASE_URL="")

    assert refused.code == 1
    assert "with the address of the tables' owner" in refused.refusal
    await empty.good("tenants", "create", "acme")
    assert (await empty("migrate", "--check")).code == 0


async def test_a_role_that_may_more_is_refused(cli: CommandLine, database_url: str) -> None:
    cli.set(DATABASE_URL=database_url, GATEWAY_APP_DATABASE_URL=database_url)

    outcome = await cli("migrate")

    assert outcome.code == 1
    assert "may do more than app and worker need" in outcome.refusal


async def test_the_announced_admin_key_is_added_and_works(
    cli: CommandLine, database_url: str, tmp_path: Path
) -> None:
    minted = mint(Role.ADMIN)
    file = tmp_path / "digest"
    file.write_text(FirstKey.of(minted, RING).line() + "\n")
    cli.set(GATEWAY_ADMIN_KEY_DIGEST_FILE=str(file))

    added = (await cli.good("migrate", "--json")).json["admin_key_added"]
    again = (await cli.good("migrate", "--json")).json["admin_key_added"]

    engine = create_engine(database_url, application_name="test")
    found = await KeyLookup(engine).find_by_digest(RING.digests(minted.reveal()))
    await engine.dispose()
    assert (added, again) == (minted.prefix, None)
    assert found.principal is not None
    assert found.principal.role is Role.ADMIN


async def test_an_announced_key_gives_way_to_one_that_is_there(cli: CommandLine) -> None:
    await cli.good("keys", "create", "ops", "--admin")
    cli.set(GATEWAY_ADMIN_KEY_DIGEST=FirstKey.of(mint(Role.ADMIN), RING).line())

    await cli.good("migrate")

    assert [key["name"] for key in (await cli.good("keys", "list", "--json")).json["keys"]] == ["ops"]


async def test_a_damaged_digest_is_refused_without_being_repeated(cli: CommandLine) -> None:
    cli.set(GATEWAY_ADMIN_KEY_DIGEST="nnga_canary")

    outcome = await cli("migrate")

    assert outcome.code == 2
    assert "GATEWAY_ADMIN_KEY_DIGEST" in outcome.refusal
    assert "canary" not in outcome.refusal
