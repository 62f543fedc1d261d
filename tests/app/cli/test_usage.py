"""`usage`: the ledger as a table and as JSON."""

from datetime import timedelta

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from db.usage import UsageRows
from domain.usage import UsageRecord
from tests.app.cli.conftest import CommandLine
from tests.support.ledger_records import DAY, admission, record, settlement
from tests.support.rows import add_acme

PERIOD = ("--since", "2031-05-30", "--until", "2031-05-31")
LONG_PERIOD = ("--since", "2031-05-30", "--until", "2031-06-02")


@pytest.fixture(autouse=True)
async def ledger(database_url: str, engine: AsyncEngine) -> None:
    """Three requests: two on the thirtieth of May, one a day later."""
    connection = await asyncpg.connect(database_url)
    await add_acme(connection)
    await connection.close()
    await UsageRows(engine).insert_batch([record(), record(), record(DAY + timedelta(days=1))])


@pytest.mark.parametrize(
    ("by", "labels"),
    [
        ("tenant", ["acme"]),
        ("model", ["m:1"]),
        ("day", ["2031-05-30", "2031-05-31"]),
        ("backend", ["a"]),
        ("outcome", ["completed"]),
    ],
)
async def test_lines_and_total_by_any_group(cli: CommandLine, by: str, labels: list[str]) -> None:
    report = (await cli.good("usage", "--by", by, *PERIOD, "--json")).json

    assert set(report) == {"by", "since", "until", "tenant", "lines", "total"}
    assert [line["label"] for line in report["lines"]] == labels
    assert sum(line["requests"] for line in report["lines"]) == report["total"]["requests"] == 3


async def test_keys_are_named_by_their_prefix(cli: CommandLine) -> None:
    report = (await cli.good("usage", "--by", "key", *PERIOD, "--json")).json

    assert [line["label"][:4] for line in report["lines"]] == ["nng_"]


async def test_the_plain_table_ends_with_the_total(cli: CommandLine) -> None:
    lines = (await cli.good("usage", "--by", "day", *PERIOD)).out.splitlines()

    assert [line.split()[0] for line in lines] == ["day", "2031-05-30", "2031-05-31", "total"]
    assert lines[-1].split()[1:4] == ["3", "30", "60"]


async def test_a_last_day_counts_whole(cli: CommandLine) -> None:
    one_day = ("--since", "2031-05-31", "--until", "2031-05-31")

    assert (await cli.good("usage", *one_day, "--json")).json["total"]["requests"] == 1


async def test_another_tenant_s_requests_do_not_count(cli: CommandLine) -> None:
    await cli.good("tenants", "create", "other")

    report = (await cli.good("usage", *PERIOD, "--tenant", "other", "--json")).json

    assert (report["tenant"], report["lines"], report["total"]["requests"]) == ("other", [], 0)


@pytest.mark.parametrize(
    "words",
    [
        ("--by", "weather"),
        ("--since", "yesterday"),
        ("--since", "2031-06-01", "--until", "2031-05-01"),
        ("--until", "9999-12-31"),
    ],
)
async def test_bad_input_exits_with_2(cli: CommandLine, words: tuple[str, ...]) -> None:
    outcome = await cli("usage", *words)

    assert outcome.code == 2
    assert outcome.refusal


async def test_a_chart_has_a_bar_for_each_day_also_without_requests(
    cli: CommandLine, engine: AsyncEngine
) -> None:
    await UsageRows(engine).insert_batch([record(DAY + timedelta(days=3))])

    title, *bars = (
        await cli.good("usage", "--by", "day", "--chart", "tokens", *LONG_PERIOD)
    ).out.splitlines()

    assert title.startswith("Tokens by day, ")
    assert [bar.split()[:2] for bar in bars] == [
        ["2031-05-30", "60"],
        ["2031-05-31", "30"],
        ["2031-06-01", "-"],
        ["2031-06-02", "30"],
    ]
    assert bars[0].count("█") == 2 * bars[1].count("█") > 0


async def test_a_chart_of_models_begins_with_the_largest(cli: CommandLine, engine: AsyncEngine) -> None:
    await UsageRows(engine).insert_batch([UsageRecord(admission(model="a:1"), settlement())])

    bars = (await cli.good("usage", "--by", "model", "--chart", "requests", *PERIOD)).out.splitlines()[1:]

    assert [bar.split()[:2] for bar in bars] == [["m:1", "3"], ["a:1", "1"]]


async def test_a_chart_of_nothing_says_so(cli: CommandLine) -> None:
    outcome = await cli.good(
        "usage", "--by", "model", "--chart", "tokens", "--since", "2001-01-01", "--until", "2001-01-02"
    )

    assert (outcome.out, "nothing to draw" in outcome.err) == ("", True)
