"""`tenants set`, `suspend`, `activate` and `show`, against a real database."""

import pytest

from tests.app.cli.conftest import CommandLine


@pytest.fixture(autouse=True)
async def research(cli: CommandLine) -> None:
    await cli.good("tenants", "create", "research")


async def test_a_tenant_is_suspended_and_let_back_in(cli: CommandLine) -> None:
    suspended = await cli.good("tenants", "suspend", "research")
    again = await cli.good("tenants", "suspend", "research")
    active = await cli.good("tenants", "activate", "research")

    assert suspended.out.startswith(
        "Tenant research is suspended. Its keys are refused everywhere within 2 seconds"
    )
    assert again.out == "Tenant research was suspended before; nothing changed.\n"
    assert active.out == "Tenant research is active. Its keys work again everywhere within 2 seconds.\n"


@pytest.mark.parametrize("act", ["suspend", "activate"])
async def test_waiting_says_that_nobody_had_to_confirm_where_nothing_runs(cli: CommandLine, act: str) -> None:
    outcome = await cli.good("tenants", act, "research", "--wait")

    assert "No app process runs" in outcome.out


async def test_the_keys_of_the_json_are_stable(cli: CommandLine) -> None:
    suspended = (await cli.good("tenants", "suspend", "research", "--json")).json
    waited = (await cli.good("tenants", "activate", "research", "--wait", "--json")).json
    changed = (await cli.good("tenants", "set", "research", "--name", "Lab", "--json")).json
    shown = (await cli.good("tenants", "show", "research", "--json")).json

    assert (set(suspended), suspended["tenant"]["status"]) == ({"tenant", "changed"}, "suspended")
    assert set(waited) == {"tenant", "changed", "confirmation"}
    assert (set(changed), changed["changed"]) == ({"tenant", "changed"}, True)
    assert set(shown) == {"tenant", "limits", "grants", "keys"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--name", "Lab"), "its name is now 'Lab'"),
        (("--time-zone", "Asia/Tokyo"), "its days and months begin by the clocks of Asia/Tokyo"),
        (("--all-models", "on"), "it may use all models"),
    ],
)
async def test_what_changed_is_told(cli: CommandLine, words: tuple[str, ...], told: str) -> None:
    first, second = [await cli.good("tenants", "set", "research", *words) for _ in range(2)]

    assert first.out == f"Tenant research: {told}.\n"
    assert second.out == "Tenant research was like this before; nothing changed.\n"


async def test_a_tenant_left_without_any_model_is_told_what_to_do(cli: CommandLine) -> None:
    await cli.good("tenants", "set", "research", "--all-models", "on")

    off = await cli.good("tenants", "set", "research", "--all-models", "off")
    await cli.good("models", "allow", "llama3", "--tenant", "research")
    await cli.good("tenants", "set", "research", "--all-models", "on")
    granted = await cli.good("tenants", "set", "research", "--all-models", "off")

    assert "models allow MODEL --tenant research" in off.err
    assert granted.err == ""


@pytest.mark.parametrize(
    "words",
    [
        ("set", "research"),
        ("set", "research", "--all-models", "perhaps"),
        ("set", "research", "--time-zone", "Mars/Olympus"),
        ("set", "research", "--name", " "),
        ("suspend",),
    ],
)
async def test_bad_input_exits_with_2(cli: CommandLine, words: tuple[str, ...]) -> None:
    before = (await cli.good("tenants", "list", "--json")).json

    outcome = await cli("tenants", *words)

    assert (outcome.code, bool(outcome.refusal)) == (2, True)
    assert (await cli.good("tenants", "list", "--json")).json == before


@pytest.mark.parametrize(
    "words", [("set", "--name", "x"), ("suspend",), ("activate",), ("show",)], ids=lambda words: words[0]
)
async def test_an_unknown_tenant_is_answered_with_a_close_one(
    cli: CommandLine, words: tuple[str, ...]
) -> None:
    outcome = await cli("tenants", words[0], "reserch", *words[1:])

    assert (outcome.code, outcome.refusal) == (1, "There is no tenant 'reserch'; did you mean research?")


async def test_a_new_tenant_is_shown_with_what_to_do_next(cli: CommandLine) -> None:
    shown = (await cli.good("tenants", "show", "research")).out

    assert shown.startswith("Tenant research (research) is active.")
    assert "models allow MODEL --tenant research" in shown
    assert "keys create NAME --tenant research" in shown


async def test_all_that_a_tenant_has_is_shown(cli: CommandLine) -> None:
    key = (await cli.good("keys", "create", "laptop", "--tenant", "research")).out[:12]
    await cli.good("models", "allow", "llama3*", "--tenant", "research")
    await cli.good("limits", "set", "--tenant", "research", "--tokens-per-day", "2000000")

    shown = (await cli.good("tenants", "show", "research")).out

    for part in (key, "laptop", "llama3*", "2,000,000"):
        assert part in shown
