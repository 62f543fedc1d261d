"""`policies`: rules for options, as typed, against a real database."""

from typing import Any

import pytest

from tests.app.cli.conftest import CommandLine

CAP = ("num_predict", "clamp", "--max", "2048", "--value", "512")
NO_PARTS = {"min": None, "max": None, "value": None}


@pytest.fixture(autouse=True)
async def research(cli: CommandLine) -> None:
    """Add a tenant with one grant."""
    await cli.good("tenants", "create", "research")
    await cli.good("models", "allow", "qwen3:*", "--tenant", "research")


async def set_rule(cli: CommandLine, *words: str) -> Any:
    return (await cli.good("policies", "set", *words, "--tenant", "research", "--json")).json


async def rules(cli: CommandLine, *words: str) -> Any:
    (tenant,) = (await cli.good("policies", "list", "--tenant", "research", "--json", *words)).json["tenants"]
    assert set(tenant) == {"tenant", "rules"}
    return tenant["rules"]


async def test_a_rule_is_told_and_listed(cli: CommandLine) -> None:
    told = await cli.good("policies", "set", *CAP, "--tenant", "research")

    assert told.out == "Tenant research: num_predict is now clamp, max 2048, value 512.\n"
    assert (await cli.good("policies", "list")).out.splitlines() == [
        "tenant    key         models        field        rule",
        "research  (all keys)  (all models)  num_predict  clamp, max 2048, value 512",
    ]


async def test_a_rule_for_a_key_and_one_for_a_grant_say_where_they_stand(cli: CommandLine) -> None:
    prefix = (await cli.good("keys", "create", "laptop", "--tenant", "research")).out[:12]
    await set_rule(cli, "think", "set", "--value", "false", "--key", prefix)
    await set_rule(cli, "num_ctx", "set", "--value", "8192", "--model", "qwen3:*")

    of_key = {"field": "think", "key": prefix, "model": None, "action": "set", **NO_PARTS, "value": False}
    of_grant = {
        "field": "num_ctx",
        "key": None,
        "model": "qwen3:*",
        "action": "set",
        **NO_PARTS,
        "value": 8192,
    }
    assert await rules(cli) == [of_grant, of_key]
    assert await rules(cli, "--key", prefix) == [of_key]


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (("keep_alive", "clamp", "--min", "5m", "--max", "1800"), {"min": "5m", "max": 1800}),
        (("keep_alive", "set", "--value=-1"), {"value": -1}),
        (("keep_alive", "set", "--value", "1.5"), {"value": 1.5}),
        (("use_mmap", "set", "--value", "true"), {"value": True}),
        (("think", "set", "--value", "low"), {"value": "low"}),
        (("system", "set", "--value", "12"), {"value": "12"}),
    ],
)
async def test_values_are_read_as_their_field_means_them(
    cli: CommandLine, words: tuple[str, ...], read: dict[str, object]
) -> None:
    rule = (await set_rule(cli, *words))["rule"]

    assert {name: rule[name] for name in NO_PARTS} == {**NO_PARTS, **read}


async def test_setting_a_rule_again_changes_nothing(cli: CommandLine) -> None:
    assert [(await set_rule(cli, *CAP))["changed"] for _ in range(2)] == [True, False]


async def test_a_cleared_rule_is_gone(cli: CommandLine) -> None:
    await set_rule(cli, *CAP)
    await cli.good("policies", "clear", "num_predict", "--tenant", "research")

    assert await rules(cli) == []


async def test_an_empty_list_says_that_defaults_hold(cli: CommandLine) -> None:
    outcome = await cli.good("policies", "list")

    assert (outcome.out, "defaults" in outcome.err) == ("", True)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ("set", "temperature", "strip", "--tenant", "research"),
            2,
            "No policy can be set for 'temperature'",
        ),
        (("set", "num_ctx", "clamp", "--tenant", "research"), 2, "'min', a 'max' or a 'value' is needed"),
        (("set", "num_ctx", "clamp", "--max", "8k", "--tenant", "research"), 2, "whole number"),
        (("set", "think", "strip", "--tenant", "nobody"), 1, "no tenant 'nobody'"),
        (
            ("set", "think", "strip", "--tenant", "research", "--key", "nng_00000000"),
            1,
            "no key nng_00000000",
        ),
        (
            ("set", "think", "strip", "--tenant", "research", "--model", "llama3"),
            1,
            "no grant 'llama3:latest'",
        ),
        (("set", "think", "strip", "--tenant", "research", "--model", "a b"), 2, "no model name or glob"),
        (("clear", "think", "--tenant", "research"), 1, "has no rule for 'think'"),
        (("list", "--key", "nng_00000000"), 2, "--tenant"),
        (("list", "--key", "nng_00000000", "--tenant", "research"), 1, "no key nng_00000000"),
    ],
)
async def test_a_refusal_is_one_sentence_and_a_code(
    cli: CommandLine, words: tuple[str, ...], code: int, said: str
) -> None:
    outcome = await cli("policies", *words)

    assert outcome.code == code
    assert said in outcome.refusal
