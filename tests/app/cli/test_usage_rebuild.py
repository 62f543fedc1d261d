"""`usage rebuild`: sums made anew at once, and told how many."""

from collections.abc import AsyncIterator
from datetime import date, timedelta

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from db.usage import UsageRows
from db.usage_roll_ups import UsageRollUps
from tests.app.cli.conftest import CommandLine
from tests.support.ledger_records import DAY, record

SPAN = ("--since", "2031-05-30", "--until", "2031-05-31")
REPORT = ("usage", "--by", "day", "--since", "2031-05-01", "--until", "2031-06-30", "--json")
LATER = (timedelta(0), timedelta(hours=1), timedelta(days=1), timedelta(days=3))


@pytest.fixture
async def sql(database_url: str, engine: AsyncEngine) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection to a ledger of four hours, three of them within the span, with sums that are wrong."""
    await UsageRows(engine).insert_batch([record(DAY + later) for later in LATER])
    roll_ups = UsageRollUps(engine)
    for hour in await roll_ups.touched():
        await roll_ups.roll_up(hour)
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE usage_hourly SET requests = 99")
    await connection.execute("UPDATE usage_daily SET requests = 99")
    yield connection
    await connection.close()


async def requests_by_day(cli: CommandLine) -> dict[str, int]:
    return {line["label"]: line["requests"] for line in (await cli.good(*REPORT)).json["lines"]}


async def test_the_sums_of_the_span_are_right_again_and_others_are_left_alone(
    cli: CommandLine, sql: asyncpg.Connection
) -> None:
    outcome = await cli.good("usage", "rebuild", *SPAN)

    assert outcome.out == "The sums of 3 hours are made anew from their rows.\n"
    assert await sql.fetchval("SELECT count(*) FROM usage_touched_hours") == 0
    assert await requests_by_day(cli) == {"2031-05-30": 2, "2031-05-31": 1, "2031-06-02": 99}


@pytest.mark.usefixtures("sql")
async def test_the_keys_of_the_json_are_stable(cli: CommandLine) -> None:
    assert (await cli.good("usage", "rebuild", *SPAN, "--json")).json == {
        "since": "2031-05-30T00:00:00Z",
        "until": "2031-06-01T00:00:00Z",
        "hours": 3,
        "months_kept": [],
    }


async def test_sums_whose_rows_were_dropped_stay_and_are_named(
    cli: CommandLine, sql: asyncpg.Connection
) -> None:
    await sql.execute("INSERT INTO usage_pruned_months (period) VALUES ($1)", date(2031, 5, 1))

    outcome = await cli.good("usage", "rebuild", "--since", "2031-05-01", "--until", "2031-06-30")

    assert "1 hour " in outcome.out
    assert "2031-05" in outcome.err
    assert await requests_by_day(cli) == {"2031-05-30": 99, "2031-05-31": 99, "2031-06-02": 1}


async def test_a_span_without_usage_says_so(cli: CommandLine) -> None:
    outcome = await cli.good("usage", "rebuild", "--since", "1d")

    assert outcome.out == "There is nothing to make anew: no row and no sum is of that time.\n"


@pytest.mark.parametrize(
    "words", [(), ("--since", "soon"), ("--since", "2031-06-01", "--until", "2031-05-01"), ("--by", "model")]
)
async def test_bad_input_exits_with_2(bare: CommandLine, words: tuple[str, ...]) -> None:
    outcome = await bare("usage", "rebuild", *words)

    assert outcome.code == 2
    assert outcome.refusal


async def test_a_word_that_is_no_command_is_named(bare: CommandLine) -> None:
    outcome = await bare("usage", "rebild")

    assert (outcome.code, outcome.refusal) == (2, "'rebild' means nothing here; --help shows what does.")
