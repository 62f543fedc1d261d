"""`keys set` and `keys rotate`, against a real database."""

import re
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from domain.keys import parse
from tests.app.cli.conftest import CommandLine, Outcome

CREATE = (
    "keys",
    "create",
    "laptop",
    "--tenant",
    "research",
    "--network",
    "10.0.0.0/8",
    "--expires",
    "2999-12-31",
)
END = "3000-01-01T00:00:00Z"


@pytest.fixture
async def key(cli: CommandLine) -> str:
    """Give the prefix of a key bound to a network, with an end."""
    await cli.good("tenants", "create", "research")
    return (await cli.good(*CREATE)).out[:12]


async def listed(cli: CommandLine, prefix: str) -> dict[str, object]:
    keys = (await cli.good("keys", "list", "--json")).json["keys"]
    return next(line for line in keys if line["prefix"] == prefix)


def told_of_both(outcome: Outcome, old: str) -> str:
    """Return the prefix of the new key, which standard output holds alone; standard error names both."""
    key = parse(outcome.out.strip())
    assert key is not None
    assert old in outcome.err
    assert key.prefix in outcome.err
    assert outcome.out.strip() not in outcome.err
    return key.prefix


async def test_the_new_key_is_alone_on_standard_output_and_the_old_one_s_end_beside_it(
    cli: CommandLine, key: str
) -> None:
    outcome = await cli.good("keys", "rotate", key)

    new = await listed(cli, told_of_both(outcome, key))
    old = await listed(cli, key)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert abs(datetime.fromisoformat(str(old["expires_at"])) - tomorrow) < timedelta(minutes=1)
    assert re.search(rf"{key} works until \d{{4}}-\d\d-\d\d \d\d:\d\d UTC", outcome.err)
    assert (new["expires_at"], new["rotated_from"], new["allowed_networks"]) == (
        END,
        old["id"],
        ["10.0.0.0/8"],
    )


async def test_without_an_overlap_the_old_key_is_revoked(cli: CommandLine, key: str) -> None:
    outcome = await cli.good("keys", "rotate", key, "--overlap", "0", "--expires", "never")

    new = await listed(cli, told_of_both(outcome, key))
    assert "within 2 seconds" in outcome.err
    assert (await listed(cli, key))["status"] == "revoked"
    assert new["expires_at"] is None


async def test_a_new_key_that_ends_with_the_old_one_is_worth_a_word(
    cli: CommandLine, key: str, database_url: str
) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE api_keys SET expires_at = now() + interval '1 hour'")
    await connection.close()

    outcome = await cli.good("keys", "rotate", key)

    assert f"keys set {told_of_both(outcome, key)} --expires" in outcome.err


async def test_an_admin_key_is_rotated_like_any_other(cli: CommandLine) -> None:
    admin = (await cli.good("keys", "create", "ops", "--admin")).out[:13]

    new = told_of_both(await cli.good("keys", "rotate", admin, "--overlap", "0"), admin)

    assert (await listed(cli, new))["role"] == "admin"


async def test_the_keys_of_the_json_are_stable(cli: CommandLine, key: str) -> None:
    rotated = (await cli.good("keys", "rotate", key, "--overlap", "30m", "--json")).json
    prefix = rotated["summary"]["prefix"]
    changed = (await cli.good("keys", "set", prefix, "--name", "desk", "--json")).json

    assert set(rotated) == {"key", "summary", "replaced"}
    assert set(rotated["summary"]) == set(rotated["replaced"]) == set(changed["key"])
    assert (set(changed), changed["changed"]) == ({"key", "changed"}, True)


async def test_a_key_that_was_rotated_names_its_successor(cli: CommandLine, key: str) -> None:
    successor = (await cli.good("keys", "rotate", key)).out[:12]

    again = await cli("keys", "rotate", key)

    assert again.code == 1
    assert again.refusal == f"Key {key} was rotated before: {successor} replaces it, so rotate that one."


async def test_what_changed_is_told(cli: CommandLine, key: str) -> None:
    for words, told in (
        (("--name", "desk"), "its name is now 'desk'"),
        (("--expires", "2998-06-30"), "it ends at 2998-07-01 00:00 UTC"),
        (("--expires", "never"), "it never ends by itself"),
        (("--network", "10.1.0.0/16", "--network", "::1"), "it works from 10.1.0.0/16, ::1/128"),
        (("--name", "lap", "--network", "anywhere"), "its name is now 'lap', it works from anywhere"),
        (("--paths", "on"), "it may stand in paths"),
        (("--paths", "off"), "it may not stand in paths any more"),
    ):
        assert (await cli.good("keys", "set", key, *words)).out == f"Key {key}: {told}.\n"


async def test_a_successor_may_stand_where_its_key_might(cli: CommandLine, key: str) -> None:
    await cli.good("keys", "set", key, "--paths", "on")

    assert (await cli.good("keys", "rotate", key, "--json")).json["summary"]["path_allowed"] is True


async def test_an_admin_key_is_not_let_into_paths(cli: CommandLine) -> None:
    admin = (await cli.good("keys", "create", "ops", "--admin")).out[:13]

    assert "not an admin key" in (await cli("keys", "set", admin, "--paths", "on")).refusal


async def test_what_changes_nothing_says_so(cli: CommandLine, key: str) -> None:
    outcome = await cli.good("keys", "set", key, "--name", "laptop", "--network", "10.0.0.0/8")

    assert outcome.out == f"Key {key} was like this before; nothing changed.\n"


async def test_a_revoked_key_cannot_be_changed(cli: CommandLine, key: str) -> None:
    await cli.good("keys", "revoke", key)

    for words in (("set", key, "--name", "desk"), ("rotate", key)):
        outcome = await cli("keys", *words)
        assert outcome.code == 1
        assert outcome.refusal == f"Key {key} is revoked, which is for good; create a new one."


async def test_an_unknown_key_fails(cli: CommandLine) -> None:
    for words in (("set", "nng_00000000", "--name", "x"), ("rotate", "nng_00000000")):
        outcome = await cli("keys", *words)
        assert outcome.code == 1
        assert outcome.refusal.startswith("There is no key nng_00000000;")


@pytest.mark.parametrize(
    "words",
    [
        ("set",),
        ("set", "nng_00000000"),
        ("set", "nng_00000000", "--expires", "2020-01-01"),
        ("set", "nng_00000000", "--network", "here"),
        ("set", "nng_00000000", "--name", " "),
        ("rotate", "nng_00000000", "--overlap", "soon"),
        ("rotate", "nng_00000000", "--overlap", "-1h"),
        ("rotate", "nng_00000000", "--expires", "soon"),
        ("rotate", "canary"),
    ],
)
async def test_bad_input_exits_with_2_before_anything_is_asked_for(
    bare: CommandLine, words: tuple[str, ...]
) -> None:
    outcome = await bare("keys", *words)

    assert outcome.code == 2
    assert "canary" not in outcome.refusal


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rotate", "nng_00000000", "--overlap", "-1d"), "'-1d' is no length of time"),
        (("set", "nng_00000000", "--network", "bogus"), "'bogus' is no network such as 10.0.0.0/8."),
        (("set", "nng_00000000", "--network", "10.0.0.7/8"), "write 10.0.0.0/8"),
    ],
)
async def test_what_was_mistyped_is_named(bare: CommandLine, words: tuple[str, ...], said: str) -> None:
    outcome = await bare("keys", *words)

    assert outcome.code == 2
    assert said in outcome.refusal
