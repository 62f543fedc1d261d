"""Audit events: written with the change, never touched again."""

from uuid import UUID

import asyncpg
import pytest
from asyncpg import RestrictViolationError

from db.postgres import Database
from domain.keys import PepperRing
from domain.tenants import Actor, SlugTaken

ADD = "INSERT INTO audit_events (actor, action, subject) VALUES ('a', 'b', 'c')"


@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit_events SET actor = 'x'", "DELETE FROM audit_events", "TRUNCATE audit_events"],
)
async def test_an_event_can_neither_be_changed_nor_removed(
    scratch: asyncpg.Connection, statement: str
) -> None:
    await scratch.execute(ADD)

    with pytest.raises(RestrictViolationError, match="audit events can only be added"):
        await scratch.execute(statement)


async def test_an_event_says_who_did_what_from_where(database: Database, sql: asyncpg.Connection) -> None:
    request = UUID("00000000-0000-7000-8000-00000000000f")
    async with database.unit_of_work(Actor("nnga_abcdefgh", request, "2001:db8::1")) as uow:
        tenant = await uow.tenants.create("acme", "Acme")

    event = dict(await sql.fetchrow("SELECT * FROM audit_events") or {})
    assert (event["actor"], event["action"], event["subject"]) == (
        "nnga_abcdefgh",
        "tenant.create",
        f"tenant:{tenant.id}",
    )
    assert (event["request_id"], str(event["address"]), event["before"]) == (request, "2001:db8::1", None)
    assert '"slug": "acme"' in event["after"]


async def test_a_change_that_fails_leaves_no_event(database: Database, sql: asyncpg.Connection) -> None:
    async def change() -> None:
        async with database.unit_of_work(Actor("test")) as uow:
            await uow.tenants.create("acme", "Acme")
            await uow.tenants.create("acme", "Acme again")

    with pytest.raises(SlugTaken):
        await change()

    assert await sql.fetchval("SELECT count(*) FROM audit_events") == 0


async def test_no_event_holds_a_secret_or_a_digest(
    database: Database, sql: asyncpg.Connection, peppers: PepperRing
) -> None:
    async with database.unit_of_work(Actor("test")) as uow:
        tenant = await uow.tenants.create("acme", "Acme")
        issued = await uow.keys(tenant.id).create("k", peppers=peppers)
        await uow.keys(tenant.id).revoke(issued.minted.prefix)

    text = str(await sql.fetchval("SELECT string_agg(e::text, ' ') FROM audit_events AS e"))
    (digest,) = peppers.digests(issued.minted.reveal())
    assert issued.minted.prefix in text
    assert issued.minted.reveal().split("_")[2] not in text
    assert digest.hex() not in text
