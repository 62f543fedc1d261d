"""`models`: grants, against a real database."""

import pytest

from tests.app.cli.conftest import CommandLine


@pytest.fixture(autouse=True)
async def research(cli: CommandLine) -> None:
    await cli.good("tenants", "create", "research")


@pytest.fixture
async def prefix(cli: CommandLine) -> str:
    return (await cli.good("keys", "create", "laptop", "--tenant", "research")).out[:12]


async def grants(cli: CommandLine, *words: str) -> list[tuple[str, str | None]]:
    (tenant,) = (await cli.good("models", "list", "--tenant", "research", "--json", *words)).json["tenants"]
    assert set(tenant) == {"tenant", "allow_all_models", "grants"}
    return [(grant["pattern"], grant["key"]) for grant in tenant["grants"]]


async def test_a_grant_is_kept_under_the_canonical_name(cli: CommandLine) -> None:
    await cli.good("models", "allow", "Llama3.2", "--tenant", "research")

    assert await grants(cli) == [("llama3.2:latest", None)]


async def test_repeating_a_grant_changes_nothing(cli: CommandLine) -> None:
    await cli.good("models", "allow", "qwen3*", "--tenant", "research")

    again = await cli.good("models", "allow", "qwen3*", "--tenant", "research", "--json")

    assert again.json == {"tenant": "research", "key": None, "pattern": "qwen3*", "changed": False}


async def test_a_key_s_grant_names_the_key(cli: CommandLine, prefix: str) -> None:
    await cli.good("models", "allow", "qwen3*", "--tenant", "research")
    await cli.good("models", "allow", "qwen3:8b", "--tenant", "research", "--key", prefix)

    assert await grants(cli) == [("qwen3*", None), ("qwen3:8b", prefix)]
    assert await grants(cli, "--key", prefix) == [("qwen3:8b", prefix)]


async def test_a_grant_taken_back_is_gone_and_the_rest_is_told(cli: CommandLine) -> None:
    for pattern in ("qwen3*", "llama3*"):
        await cli.good("models", "allow", pattern, "--tenant", "research")

    outcome = await cli.good("models", "disallow", "llama3*", "--tenant", "research")

    assert "qwen3*" in outcome.err
    assert await grants(cli) == [("qwen3*", None)]


async def test_taking_back_what_was_never_granted_fails(cli: CommandLine) -> None:
    await cli.good("models", "allow", "qwen3*", "--tenant", "research")

    outcome = await cli("models", "disallow", "qwen3:*", "--tenant", "research")

    assert outcome.code == 1
    assert outcome.refusal == "Tenant research has no grant 'qwen3:*'; it has qwen3*."


async def test_a_key_of_nobody_is_refused(cli: CommandLine) -> None:
    outcome = await cli("models", "allow", "qwen3", "--tenant", "research", "--key", "nng_00000000")

    assert outcome.code == 1
    assert "nng_00000000" in outcome.refusal


async def test_what_is_no_model_name_exits_with_2(cli: CommandLine) -> None:
    outcome = await cli("models", "allow", "no such/model name!", "--tenant", "research")

    assert outcome.code == 2
    assert outcome.refusal


async def test_a_tenant_of_all_models_is_shown_as_such(cli: CommandLine) -> None:
    await cli.good("tenants", "create", "open", "--all-models")

    lines = (await cli.good("models", "list")).out.splitlines()

    assert "(all models)" in lines[1]


@pytest.mark.parametrize(("pattern", "hinted"), [("gpt-oss:120b-cloud", True), ("llama3.2", False)])
async def test_a_grant_of_a_cloud_model_says_what_else_it_takes(
    cli: CommandLine, pattern: str, *, hinted: bool
) -> None:
    await cli.good("tenants", "create", "clouds")

    outcome = await cli.good("models", "allow", pattern, "--tenant", "clouds")

    assert ("allow_cloud" in outcome.err) is hinted
