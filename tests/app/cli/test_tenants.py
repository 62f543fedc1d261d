"""`tenants`, against a real database."""

import pytest

from tests.app.cli.conftest import CommandLine


async def test_a_created_tenant_is_listed(cli: CommandLine) -> None:
    await cli.good("tenants", "create", "research", "--name", "Research lab", "--time-zone", "Europe/Berlin")

    (tenant,) = (await cli.good("tenants", "list", "--json")).json["tenants"]
    assert (tenant["slug"], tenant["name"], tenant["time_zone"]) == (
        "research",
        "Research lab",
        "Europe/Berlin",
    )
    assert not tenant["allow_all_models"]


async def test_the_keys_of_the_json_are_stable(cli: CommandLine) -> None:
    created = (await cli.good("tenants", "create", "research", "--all-models", "--json")).json["tenant"]

    assert set(created) == {
        "id",
        "slug",
        "name",
        "status",
        "time_zone",
        "allow_all_models",
        "created_at",
    }


async def test_the_plain_list_has_one_line_per_tenant(cli: CommandLine) -> None:
    await cli.good("tenants", "create", "a")
    await cli.good("tenants", "create", "b", "--all-models")

    heading, first, second = (await cli.good("tenants", "list")).out.splitlines()

    assert heading.split()[:3] == ["tenant", "name", "status"]
    assert first.startswith("a ")
    assert "as granted" in first
    assert " all " in second


async def test_a_taken_slug_fails_in_one_sentence(cli: CommandLine) -> None:
    await cli.good("tenants", "create", "research")

    again = await cli("tenants", "create", "research")

    assert (again.code, again.refusal) == (1, "There is a tenant 'research' already.")


@pytest.mark.parametrize("words", [("Bad Slug",), ("x", "--time-zone", "Mars/Olympus"), ()])
async def test_bad_input_exits_with_2(cli: CommandLine, words: tuple[str, ...]) -> None:
    outcome = await cli("tenants", "create", *words)

    assert outcome.code == 2
    assert outcome.refusal
    assert (await cli.good("tenants", "list", "--json")).json == {"tenants": []}


async def test_an_empty_list_says_what_to_do(cli: CommandLine) -> None:
    assert "neuronetz-gateway tenants create" in (await cli.good("tenants", "list")).err
