"""`audit`, against a real database."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from db.postgres import Database
from domain.tenants import Actor
from tests.app.cli.conftest import CommandLine


@pytest.fixture
async def busy(cli: CommandLine) -> str:
    """Leave some events behind and return the prefix of a key."""
    await cli.good("tenants", "create", "research")
    await cli.good("tenants", "create", "teaching")
    prefix = (await cli.good("keys", "create", "laptop", "--tenant", "research")).out[:12]
    await cli.good("limits", "set", "--tenant", "research", "--concurrency", "2")
    await cli.good("keys", "set", prefix, "--name", "desk")
    return prefix


@pytest.mark.usefixtures("busy")
async def test_events_are_newest_first_with_who_and_what(cli: CommandLine) -> None:
    events = (await cli.good("audit", "--json")).json["events"]

    assert [each["action"] for each in events] == [
        "key.set",
        "limits.set",
        "key.create",
        "tenant.create",
        "tenant.create",
    ]
    assert {each["actor"].split(":")[0] for each in events} == {"cli"}
    assert (events[0]["before"]["name"], events[0]["after"]["name"]) == ("laptop", "desk")


async def test_people_see_names_and_what_changed(cli: CommandLine, busy: str) -> None:
    heading, newest, limits, *_ = (await cli.good("audit")).out.splitlines()

    assert heading.split()[:4] == ["when", "(UTC)", "who", "what"]
    assert f"key {busy}" in newest
    assert "name laptop -> desk" in newest
    assert "tenant research" in limits
    assert "concurrency 2" in limits


@pytest.mark.parametrize("attempts", [1, 3])
async def test_failed_logins_are_counted_where_there_were_several(
    cli: CommandLine, engine: AsyncEngine, attempts: int
) -> None:
    at = "2027-01-01T00:00:00Z"
    failed = {"reason": "unknown", "attempts": attempts, "first_at": at, "last_at": at}
    async with Database(engine).unit_of_work(Actor("unknown")) as work:
        await work.audit.append("admin.login_failed", "admin", after=failed)

    line = (await cli.good("audit")).out.splitlines()[1]

    assert "reason unknown" in line
    assert ("attempts 3; first_at" in line) == ("attempts" in line) == (attempts > 1)


async def test_filters_leave_out_what_is_not_meant(cli: CommandLine, busy: str) -> None:
    async def actions(*words: str) -> list[str]:
        return [each["action"] for each in (await cli.good("audit", *words, "--json")).json["events"]]

    assert await actions("--tenant", "research") == ["limits.set", "tenant.create"]
    assert await actions("--key", busy) == ["key.set", "key.create"]
    assert await actions("--action", "tenant.create") == ["tenant.create"] * 2
    assert await actions("--by", "nnga_00000000") == []
    assert await actions("--until", "1h") == []
    assert len(await actions("--since", "1h")) == 5


@pytest.mark.usefixtures("busy")
async def test_what_is_left_out_is_said(cli: CommandLine) -> None:
    short = await cli.good("audit", "--limit", "2")

    assert len(short.out.splitlines()) == 3
    assert "--limit" in short.err
    assert (await cli.good("audit", "--limit", "2", "--json")).json["more"] is True
    assert (await cli.good("audit", "--limit", "5", "--json")).json["more"] is False


async def test_no_events_are_said_to_be_none(cli: CommandLine) -> None:
    assert (await cli.good("audit")).err == "There are no such events.\n"
