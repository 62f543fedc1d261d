"""Changing a key: what is named changes, narrowing is a revocation, and nothing brings a revoked key back."""

from datetime import UTC, datetime
from ipaddress import ip_network

import asyncpg
import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from db.postgres import Database
from db.revocations import Revocations
from domain.keys import PepperRing
from domain.tenants import (
    Actor,
    ExpiryPast,
    KeyChange,
    KeyEnded,
    KeySummary,
    KeyUnknown,
    NameMissing,
    Revocation,
)

LATER = datetime(2099, 12, 31, tzinfo=UTC)
TEN = ip_network("10.0.0.0/8")


@pytest.fixture
async def key(database: Database, peppers: PepperRing) -> KeySummary:
    async with database.unit_of_work(Actor("test")) as uow:
        acme = await uow.tenants.create("acme", "Acme")
        return (await uow.keys(acme.id).create("laptop", peppers=peppers, allowed_networks=[TEN])).summary


async def changed(database: Database, key: KeySummary, change: KeyChange) -> KeySummary:
    async with database.unit_of_work(Actor("test")) as uow:
        return await uow.keys(key.tenant_id).change(key.prefix, change)


async def news(engine: AsyncEngine) -> tuple[Revocation, ...]:
    """Return what was revoked, if it is about a key."""
    return tuple(one for one in await Revocations(engine).since(0, 100) if one.scope == "key")


@pytest.mark.parametrize(
    ("change", "after"),
    [
        (KeyChange(name=" desk "), {"name": "desk"}),
        (KeyChange(expires_at=LATER), {"expires_at": LATER}),
        (KeyChange(allowed_networks=()), {"allowed_networks": ()}),
        (KeyChange(allow_all_models=True), {"allow_all_models": True}),
        (
            KeyChange(allowed_networks=(TEN, ip_network("2001:db8::/32"))),
            {"allowed_networks": ("10.0.0.0/8", "2001:db8::/32")},
        ),
    ],
    ids=str,
)
async def test_what_is_named_changes_and_the_rest_stays(
    database: Database, key: KeySummary, change: KeyChange, after: dict[str, object]
) -> None:
    assert await changed(database, key, change) == msgspec.structs.replace(key, **after)


@pytest.mark.parametrize(
    "change",
    [
        KeyChange(expires_at=LATER),
        KeyChange(allowed_networks=(ip_network("10.1.0.0/16"),)),
        KeyChange(allow_all_models=False),
    ],
    ids=str,
)
async def test_narrowing_a_key_is_a_revocation(
    database: Database, engine: AsyncEngine, key: KeySummary, change: KeyChange
) -> None:
    await changed(database, key, change)

    (revocation,) = await news(engine)
    assert (revocation.subject_id, revocation.usable) == (key.id, True)


@pytest.mark.parametrize(
    "change", [KeyChange(name="desk"), KeyChange(expires_at=None, allowed_networks=(TEN,))], ids=str
)
async def test_a_name_and_what_stood_before_revoke_nothing(
    database: Database, engine: AsyncEngine, key: KeySummary, change: KeyChange
) -> None:
    await changed(database, key, change)

    assert await news(engine) == ()


async def test_both_sides_of_a_change_are_audited(
    database: Database, key: KeySummary, sql: asyncpg.Connection
) -> None:
    after = await changed(database, key, KeyChange(expires_at=LATER))
    await changed(database, key, KeyChange(expires_at=LATER))  # nothing to note

    (event,) = await sql.fetch("SELECT before, after FROM audit_events WHERE action = 'key.set'")
    assert [msgspec.json.decode(side, type=KeySummary) for side in event] == [key, after]


async def test_an_expired_key_may_be_given_more_time(
    database: Database, key: KeySummary, sql: asyncpg.Connection
) -> None:
    await sql.execute("UPDATE api_keys SET expires_at = now()")

    assert (await changed(database, key, KeyChange(expires_at=LATER))).expires_at == LATER


async def test_a_revoked_key_stays_as_it_is(
    database: Database, key: KeySummary, sql: asyncpg.Connection
) -> None:
    await sql.execute("UPDATE api_keys SET status = 'revoked'")

    with pytest.raises(KeyEnded):
        await changed(database, key, KeyChange(expires_at=LATER))


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (KeyChange(expires_at=datetime(2020, 1, 1, tzinfo=UTC)), ExpiryPast),
        (KeyChange(name=" "), NameMissing),
    ],
)
async def test_what_cannot_be_changes_nothing(
    database: Database, key: KeySummary, change: KeyChange, refusal: type[Exception]
) -> None:
    with pytest.raises(refusal):
        await changed(database, key, change)
    assert await changed(database, key, KeyChange()) == key


async def test_a_stranger_changes_nothing(database: Database, key: KeySummary) -> None:
    with pytest.raises(KeyUnknown):
        await changed(database, msgspec.structs.replace(key, tenant_id=None), KeyChange(name="mine"))
