"""`limits`: as typed, against a real database."""

from typing import Any

import pytest

from tests.app.cli.conftest import CommandLine

NO_LIMITS = {
    "requests_per_minute": None,
    "tokens_per_minute": None,
    "concurrency": None,
    "tokens_per_day": None,
    "tokens_per_month": None,
}


@pytest.fixture(autouse=True)
async def research(cli: CommandLine) -> None:
    """Add a tenant."""
    await cli.good("tenants", "create", "research")


async def set_limits(cli: CommandLine, *words: str) -> Any:
    return (await cli.good("limits", "set", "--tenant", "research", "--json", *words)).json


async def shown(cli: CommandLine, *words: str) -> Any:
    (tenant,) = (await cli.good("limits", "show", "--tenant", "research", "--json", *words)).json["tenants"]
    assert set(tenant) == {"tenant", "limits"}
    return tenant["limits"]


async def test_limits_are_told_and_shown(cli: CommandLine) -> None:
    told = await cli.good(
        *(
            "limits",
            "set",
            "--tenant",
            "research",
            "--requests-per-minute",
            "600",
            "--tokens-per-day",
            "2000000",
        )
    )

    assert told.out == ("Tenant research: requests_per_minute is now 600, tokens_per_day is now 2,000,000.\n")
    assert (await cli.good("limits", "show")).out.splitlines() == [
        "tenant    key         requests/min  tokens/min  concurrent  tokens/day  tokens/month",
        "research  (all keys)           600           -           -   2,000,000             -",
    ]


async def test_a_key_has_limits_of_its_own(cli: CommandLine) -> None:
    prefix = (await cli.good("keys", "create", "laptop", "--tenant", "research")).out[:12]
    await set_limits(cli, "--concurrency", "4")
    await set_limits(cli, "--concurrency", "2", "--tokens-per-minute", "9000", "--key", prefix)

    of_key = {"key": prefix, **NO_LIMITS, "concurrency": 2, "tokens_per_minute": 9000}
    assert await shown(cli) == [{"key": None, **NO_LIMITS, "concurrency": 4}, of_key]
    assert await shown(cli, "--key", prefix) == [of_key]


async def test_none_takes_one_limit_away(cli: CommandLine) -> None:
    await set_limits(cli, "--concurrency", "4", "--tokens-per-month", "1000")
    changed = await set_limits(cli, "--concurrency", "none")

    assert changed == {
        "tenant": "research",
        "changed": True,
        "limits": {"key": None, **NO_LIMITS, "tokens_per_month": 1000},
    }


async def test_setting_limits_again_changes_nothing(cli: CommandLine) -> None:
    assert [(await set_limits(cli, "--concurrency", "4"))["changed"] for _ in range(2)] == [True, False]
    again = await cli.good("limits", "set", "--tenant", "research", "--concurrency", "4")
    assert again.out == "Tenant research had these limits before; nothing changed.\n"


async def test_cleared_limits_are_gone(cli: CommandLine) -> None:
    await set_limits(cli, "--concurrency", "4", "--tokens-per-month", "1000")
    told = await cli.good("limits", "clear", "--tenant", "research")

    assert told.out == "Tenant research has no limits of its own any more.\n"
    assert await shown(cli) == [{"key": None, **NO_LIMITS}]


async def test_clearing_tells_machines_what_changed(cli: CommandLine) -> None:
    await set_limits(cli, "--concurrency", "4")

    cleared = (await cli.good("limits", "clear", "--tenant", "research", "--json")).json
    assert cleared == {"tenant": "research", "key": None, "changed": True}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("set", "--tenant", "research"), 2, "at least one limit"),
        (("set", "--tenant", "research", "--concurrency", "0"), 2, "--concurrency cannot be 0"),
        (
            ("set", "--tenant", "research", "--tokens-per-day", "many"),
            2,
            "--tokens-per-day takes a whole number",
        ),
        (("set", "--tenant", "research", "--requests-per-minute", "3000000000"), 2, "takes 1 to 2147483647"),
        (("set", "--tenant", "nobody", "--concurrency", "1"), 1, "no tenant 'nobody'"),
        (
            ("set", "--tenant", "research", "--concurrency", "1", "--key", "nng_00000000"),
            1,
            "no key nng_00000000",
        ),
        (("clear", "--tenant", "research"), 1, "has no limits"),
        (("clear", "--tenant", "research", "--key", "nng_00000000"), 1, "no key nng_00000000"),
        (("show", "--key", "nng_00000000"), 2, "--tenant"),
        (("show", "--key", "nng_00000000", "--tenant", "research"), 1, "no key nng_00000000"),
    ],
)
async def test_a_refusal_is_one_sentence_and_a_code(
    cli: CommandLine, words: tuple[str, ...], code: int, said: str
) -> None:
    outcome = await cli("limits", *words)

    assert outcome.code == code
    assert said in outcome.refusal


async def test_a_refused_number_names_the_option_once(bare: CommandLine) -> None:
    outcome = await bare("limits", "set", "--tenant", "research", "--requests-per-minute=-1")

    assert outcome.code == 2
    assert outcome.refusal.startswith("--requests-per-minute cannot be -1: ")
