"""`tenants set`, `suspend`, `activate` and `show`, against a real database."""

import pytest

from tests.app.cli.conftest import CommandLine


@pytest.fixture
async def research(cli: CommandLine) -> CommandLine:
    """Give a command line whose gateway has the tenant `research`."""
    await cli.good("tenants", "create", "research")
    return cli


async def test_a_tenant_is_suspended_and_let_back_in(research: CommandLine) -> None:
    suspended = await research.good("tenants", "suspend", "research")
    again = await research.good("tenants", "suspend", "research")
    active = await research.good("tenants", "activate", "research")

    assert suspended.out.startswith(
        "Tenant research is suspended. Its keys are refused everywhere within 2 seconds"
    )
    assert again.out == "Tenant research was suspended before; nothing changed.\n"
    assert active.out == "Tenant research is active. Its keys work again everywhere within 2 seconds.\n"


@pytest.mark.parametrize("act", ["suspend", "activate"])
async def test_waiting_says_that_nobody_had_to_confirm_where_nothing_runs(
    research: CommandLine, act: str
) -> None:
    outcome = await research.good("tenants", act, "research", "--wait")

    assert "No app process runs" in outcome.out


async def test_the_keys_of_the_json_are_stable(research: CommandLine) -> None:
    suspended = (await research.good("tenants", "suspend", "research", "--json")).json
    waited = (await research.good("tenants", "activate", "research", "--wait", "--json")).json
    changed = (await research.good("tenants", "set", "research", "--name", "Lab", "--json")).json
    shown = (await research.good("tenants", "show", "research", "--json")).json

    assert (set(suspended), suspended["tenant"]["status"]) == ({"tenant", "changed"}, "suspended")
    assert set(waited) == {"tenant", "changed", "confirmation"}
    assert (set(changed), changed["changed"]) == ({"tenant", "changed"}, True)
    assert set(shown) == {"tenant", "limits", "grants", "keys"}


async def test_what_changed_is_told(research: CommandLine) -> None:
    for words, told in (
        (("--name", "Lab"), "its name is now 'Lab'"),
        (("--time-zone", "Asia/Tokyo"), "its days and months begin by the clocks of Asia/Tokyo"),
        (("--all-models", "on"), "it may use all models"),
    ):
        first, second = [await research.good("tenants", "set", "research", *words) for _ in range(2)]
        assert first.out == f"Tenant research: {told}.\n"
        assert second.out == "Tenant research was like this before; nothing changed.\n"


async def test_a_tenant_left_without_any_model_is_told_what_to_do(research: CommandLine) -> None:
    await research.good("tenants", "set", "research", "--all-models", "on")

    off = await research.good("tenants", "set", "research", "--all-models", "off")
    await research.good("models", "allow", "llama3", "--tenant", "research")
    await research.good("tenants", "set", "research", "--all-models", "on")
    granted = await research.good("tenants", "set", "research", "--all-models", "off")

    assert "models allow MODEL --tenant research" in off.err
    assert granted.err == ""


@pytest.mark.parametrize(
    "words", [("set", "research"), ("set", "research", "--all-models", "perhaps"), ("suspend",)]
)
async def test_bad_input_exits_with_2_before_anything_is_asked_for(
    bare: CommandLine, words: tuple[str, ...]
) -> None:
    outcome = await bare("tenants", *words)

    assert (outcome.code, bool(outcome.refusal)) == (2, True)


async def test_a_change_that_makes_no_sense_changes_nothing(research: CommandLine) -> None:
    before = (await research.good("tenants", "list", "--json")).json

    for words in (("--time-zone", "Mars/Olympus"), ("--name", " ")):
        outcome = await research("tenants", "set", "research", *words)
        assert (outcome.code, bool(outcome.refusal)) == (2, True)
    assert (await research.good("tenants", "list", "--json")).json == before


async def test_an_unknown_tenant_is_answered_with_a_close_one(research: CommandLine) -> None:
    for act, *rest in (("set", "--name", "x"), ("suspend",), ("activate",), ("show",)):
        outcome = await research("tenants", act, "reserch", *rest)
        assert (outcome.code, outcome.refusal) == (1, "There is no tenant 'reserch'; did you mean research?")


async def test_a_new_tenant_is_shown_with_what_to_do_next(research: CommandLine) -> None:
    shown = (await research.good("tenants", "show", "research")).out

    assert shown.startswith("Tenant research (research) is active.")
    assert "models allow MODEL --tenant research" in shown
    assert "keys create NAME --tenant research" in shown


async def test_a_suspended_tenant_is_shown_with_the_way_back(research: CommandLine) -> None:
    await research.good("tenants", "suspend", "research")

    assert (
        "`neuronetz-gateway tenants activate research`"
        in (await research.good("tenants", "show", "research")).out
    )


async def test_all_that_a_tenant_has_is_shown(research: CommandLine) -> None:
    key = (await research.good("keys", "create", "laptop", "--tenant", "research")).out[:12]
    await research.good("models", "allow", "llama3*", "--tenant", "research")
    await research.good("limits", "set", "--tenant", "research", "--tokens-per-day", "2000000")

    shown = (await research.good("tenants", "show", "research")).out

    for part in (key, "laptop", "llama3*", "2,000,000"):
        assert part in shown
