"""`keys`, against a real database."""

import asyncpg
import pytest

from db.key_lookup import KeyLookup
from db.postgres import create_engine
from domain.keys import PepperRing, parse
from tests.app.cli.conftest import PEPPER, CommandLine


@pytest.fixture(autouse=True)
async def research(cli: CommandLine) -> None:
    await cli.good("tenants", "create", "research")


async def test_the_key_alone_is_on_standard_output(cli: CommandLine) -> None:
    outcome = await cli.good("keys", "create", "laptop", "--tenant", "research")

    key = parse(outcome.out.strip())
    assert key is not None
    assert outcome.out.strip() not in outcome.err


async def test_the_shown_key_is_the_one_that_is_found(cli: CommandLine, database_url: str) -> None:
    key = (await cli.good("keys", "create", "laptop", "--tenant", "research")).out.strip()

    engine = create_engine(database_url, application_name="test")
    found = await KeyLookup(engine).find_by_digest(PepperRing.parse(PEPPER).digests(key))
    await engine.dispose()
    assert found.principal is not None
    assert found.principal.tenant_slug == "research"


async def test_a_key_is_shown_once_and_never_again(cli: CommandLine) -> None:
    key = (await cli.good("keys", "create", "laptop", "--tenant", "research")).out.strip()
    prefix = key[:12]

    told = [
        await cli.good("keys", "list"),
        await cli.good("keys", "list", "--json"),
        await cli.good("keys", "revoke", prefix, "--json"),
        await cli.good("keys", "revoke", prefix),
        await cli.good("keys", "list", "--tenant", "research"),
    ]

    for outcome in told:
        assert prefix in outcome.out
        assert key[13:] not in outcome.out + outcome.err


async def test_the_keys_of_the_json_are_stable(cli: CommandLine) -> None:
    created = (
        await cli.good(
            *("keys", "create", "ci", "--tenant", "research", "--json"),
            *("--expires", "2999-12-31", "--network", "10.0.0.0/8", "--network", "192.168.0.0/16"),
        )
    ).json

    assert set(created) == {"key", "summary"}
    assert set(created["summary"]) == {
        *("id", "prefix", "name", "tenant", "role", "status", "created_at", "expires_at"),
        *("last_used_at", "allowed_networks", "path_allowed", "rotated_from"),
    }
    assert created["summary"]["expires_at"] == "3000-01-01T00:00:00Z"
    assert created["summary"]["allowed_networks"] == ["10.0.0.0/8", "192.168.0.0/16"]


async def test_a_key_may_stand_in_paths_if_it_was_created_so(cli: CommandLine) -> None:
    created = [
        (await cli.good("keys", "create", "ci", "--tenant", "research", "--json", *how)).json
        for how in ((), ("--allow-path",))
    ]

    assert [key["summary"]["path_allowed"] for key in created] == [False, True]
    assert "in paths too" in (await cli.good("keys", "list", "--tenant", "research")).out


async def test_an_admin_key_never_stands_in_a_path(cli: CommandLine) -> None:
    refusal = await cli("keys", "create", "ops", "--admin", "--allow-path")

    assert refusal.code != 0
    assert "not an admin key" in refusal.err


async def test_an_admin_key_belongs_to_nobody(cli: CommandLine) -> None:
    key = (await cli.good("keys", "create", "ops", "--admin")).out.strip()

    (line,) = (await cli.good("keys", "list", "--admin", "--json")).json["keys"]
    assert (line["prefix"], line["tenant"], line["role"]) == (key[:13], None, "admin")


async def test_a_revoked_key_is_listed_as_such(cli: CommandLine) -> None:
    key = (await cli.good("keys", "create", "laptop", "--tenant", "research")).out.strip()

    first = await cli.good("keys", "revoke", key[:12])
    second = await cli.good("keys", "revoke", key[:12], "--json")

    assert "within 2 seconds" in first.out
    assert second.json["changed"] is False
    assert (await cli.good("keys", "list", "--json")).json["keys"][0]["status"] == "revoked"


async def test_a_whole_key_may_be_pasted_and_is_not_repeated(cli: CommandLine) -> None:
    key = (await cli.good("keys", "create", "laptop", "--tenant", "research")).out.strip()

    outcome = await cli.good("keys", "revoke", key)

    assert key[:12] in outcome.out
    assert key[13:] not in outcome.out + outcome.err


async def test_what_may_be_a_damaged_key_is_not_repeated(cli: CommandLine) -> None:
    outcome = await cli("keys", "revoke", "canary-secret-text")

    assert outcome.code == 2
    assert "canary" not in outcome.refusal


async def test_an_unknown_key_fails(cli: CommandLine) -> None:
    outcome = await cli("keys", "revoke", "nng_00000000")

    assert outcome.code == 1
    assert "nng_00000000" in outcome.refusal


async def test_an_expired_key_is_listed_as_such(cli: CommandLine, database_url: str) -> None:
    await cli.good("keys", "create", "laptop", "--tenant", "research")
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE api_keys SET expires_at = now() - interval '1 day'")
    await connection.close()

    assert (await cli.good("keys", "list", "--json")).json["keys"][0]["status"] == "expired"


@pytest.mark.parametrize(
    "words",
    [
        ("x",),
        ("x", "--admin", "--tenant", "research"),
        ("", "--tenant", "research"),
        ("x", "--tenant", "research", "--network", "10.0.0.1/8"),
        ("x", "--tenant", "research", "--network", "anywhere", "--network", "10.0.0.0/8"),
        ("x", "--tenant", "research", "--expires", "soon"),
        ("x", "--tenant", "research", "--expires", "2020-01-01"),
        ("x", "--tenant", "research", "--expires", "9999-12-31"),
    ],
)
async def test_bad_input_exits_with_2(cli: CommandLine, words: tuple[str, ...]) -> None:
    outcome = await cli("keys", "create", *words)

    assert outcome.code == 2
    assert outcome.refusal
    assert (await cli.good("keys", "list", "--json")).json == {"keys": []}


async def test_an_unknown_tenant_is_answered_with_a_close_one(cli: CommandLine) -> None:
    outcome = await cli("keys", "create", "x", "--tenant", "reserch")

    assert outcome.code == 1
    assert outcome.refusal == "There is no tenant 'reserch'; did you mean research?"


async def test_an_unknown_tenant_unlike_any_is_answered_with_a_list(cli: CommandLine) -> None:
    outcome = await cli("keys", "create", "x", "--tenant", "zzz")

    assert outcome.refusal == "There is no tenant 'zzz'; there are research."


async def test_the_pepper_is_needed_and_named(cli: CommandLine) -> None:
    cli.set(GATEWAY_KEY_PEPPER="")

    outcome = await cli("keys", "create", "x", "--tenant", "research")

    assert (outcome.code, outcome.refusal) == (2, "GATEWAY_KEY_PEPPER is not set; see .env.sample.")
