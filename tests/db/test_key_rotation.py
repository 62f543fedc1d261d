"""Rotation: a successor with the same rights, and an end for the key it replaces."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import asyncpg
import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from db.key_lookup import KeyLookup
from db.postgres import Database
from domain.keys import PepperRing
from domain.limits import LimitKind
from domain.rotations import OverlapInvalid
from domain.tenants import (
    Actor,
    ControlError,
    ExpiryPast,
    IssuedKey,
    KeyEnded,
    KeyExpired,
    KeyReplaced,
    KeyStatus,
    KeyUnknown,
    Rotation,
    Tenant,
)
from domain.values import OptionRule, PolicyAction, Principal, Role

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NOTHING = timedelta(0)
NEXT_MONTH = datetime.now(UTC).replace(microsecond=0) + 30 * DAY
STRIP = OptionRule(PolicyAction.STRIP)

Rotate = Callable[..., Awaitable[Rotation]]


@pytest.fixture
async def acme(database: Database) -> Tenant:
    async with database.unit_of_work(Actor("test")) as uow:
        return await uow.tenants.create("acme", "Acme")


@pytest.fixture
async def issued(database: Database, acme: Tenant, peppers: PepperRing) -> IssuedKey:
    """Give a key that makes use of everything a key can have."""
    async with database.unit_of_work(Actor("test")) as uow:
        made = await uow.keys(acme.id).create(
            "laptop",
            peppers=peppers,
            expires_at=NEXT_MONTH,
            allowed_networks=[ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")],
        )
        key = made.summary.prefix
        await uow.limits(acme.id).set({LimitKind.CONCURRENCY: 2, LimitKind.TOKENS_PER_DAY: 9}, key=key)
        for pattern in ("llama3*", "qwen3:8b"):
            await uow.grants(acme.id).allow(pattern, key=key)
        await uow.policies(acme.id).set("think", STRIP, key=key)
        await uow.policies(acme.id).set("raw", STRIP, key=key, pattern="llama3*")
        return made


@pytest.fixture
def rotate(database: Database, acme: Tenant, peppers: PepperRing) -> Rotate:
    """Rotate a key of the tenant, in a unit of work of its own."""

    async def act(reference: str, *, overlap: timedelta = DAY, **how: Any) -> Rotation:
        async with database.unit_of_work(Actor("test")) as uow:
            return await uow.keys(acme.id).rotate(reference, peppers=peppers, overlap=overlap, **how)

    return act


@pytest.fixture
def principal(engine: AsyncEngine, peppers: PepperRing) -> Callable[[IssuedKey], Awaitable[Principal | None]]:
    """Look a key up the way a request does."""

    async def look_up(issued: IssuedKey) -> Principal | None:
        found = await KeyLookup(engine).find_by_digest(peppers.digests(issued.minted.reveal()))
        return found.principal

    return look_up


Find = Callable[[IssuedKey], Awaitable[Principal | None]]


async def test_the_successor_may_do_exactly_what_the_key_may(
    rotate: Rotate, issued: IssuedKey, principal: Find
) -> None:
    old = await principal(issued)
    rotation = await rotate(issued.summary.prefix)

    new = await principal(rotation.issued)
    assert old is not None
    assert new == msgspec.structs.replace(
        old, key_id=rotation.issued.summary.id, key_prefix=rotation.issued.minted.prefix
    )


async def test_no_column_of_a_key_is_left_behind(
    rotate: Rotate, issued: IssuedKey, sql: asyncpg.Connection
) -> None:
    """Also those that nobody can set yet."""
    await sql.execute("UPDATE api_keys SET path_allowed = true")
    await sql.execute("UPDATE key_limits SET allow_all_models = true, rpm = 1, tpm = 2, tokens_per_month = 3")
    rotation = await rotate(issued.summary.prefix)

    own = (
        "ARRAY['id', 'key_id', 'created_at', 'updated_at', 'prefix', 'digest', 'expires_at', 'rotated_from']"
    )
    for table, key in (("api_keys", "id"), ("key_limits", "key_id"), ("model_grants", "key_id")):
        old, new = [
            await sql.fetch(
                f"SELECT to_jsonb(r) - {own} AS row FROM {table} AS r WHERE {key} = $1 ORDER BY row", of
            )
            for of in (issued.summary.id, rotation.issued.summary.id)
        ]
        assert old
        assert old == new


async def test_both_work_until_the_overlap_is_over(
    rotate: Rotate, issued: IssuedKey, principal: Find, sql: asyncpg.Connection
) -> None:
    rotation = await rotate(issued.summary.prefix, overlap=HOUR)

    now = await sql.fetchval("SELECT now()")
    assert rotation.replaced.status is KeyStatus.ACTIVE
    assert rotation.replaced.expires_at is not None
    assert now < rotation.replaced.expires_at <= now + HOUR
    assert await principal(issued) is not None
    assert await principal(rotation.issued) is not None


async def test_an_overlap_beyond_a_year_changes_nothing(rotate: Rotate, issued: IssuedKey) -> None:
    with pytest.raises(OverlapInvalid):
        await rotate(issued.summary.prefix, overlap=400 * DAY)

    assert (await rotate(issued.summary.prefix)).replaced.id == issued.summary.id


async def test_without_an_overlap_the_key_is_revoked_at_once(
    rotate: Rotate, issued: IssuedKey, principal: Find
) -> None:
    rotation = await rotate(issued.summary.prefix, overlap=NOTHING)

    assert rotation.replaced.status is KeyStatus.REVOKED
    assert await principal(issued) is None
    assert await principal(rotation.issued) is not None


async def test_no_key_works_longer_because_it_was_rotated(rotate: Rotate, issued: IssuedKey) -> None:
    rotation = await rotate(issued.summary.prefix, overlap=60 * DAY)

    assert rotation.replaced.expires_at == NEXT_MONTH


async def test_the_successor_keeps_the_expiry(rotate: Rotate, issued: IssuedKey) -> None:
    assert (await rotate(issued.summary.prefix)).issued.summary.expires_at == NEXT_MONTH


@pytest.mark.parametrize("expires_at", [NEXT_MONTH + DAY, None])
async def test_the_successor_may_be_given_another_expiry(
    rotate: Rotate, issued: IssuedKey, expires_at: datetime | None
) -> None:
    rotation = await rotate(issued.summary.prefix, expires_at=expires_at)

    assert rotation.issued.summary.expires_at == expires_at
    assert rotation.replaced.expires_at is not None
    assert rotation.replaced.expires_at < NEXT_MONTH


async def test_a_key_without_an_expiry_gets_one_and_its_successor_none(
    database: Database, peppers: PepperRing
) -> None:
    async with database.unit_of_work(Actor("test")) as uow:
        admin = await uow.keys(None).create("ops", peppers=peppers)
        rotation = await uow.keys(None).rotate(admin.summary.prefix, peppers=peppers, overlap=DAY)

    assert rotation.replaced.expires_at is not None
    assert rotation.issued.summary.expires_at is None
    assert rotation.issued.summary.role is Role.ADMIN


async def test_the_last_admin_key_leaves_one_that_works(
    database: Database, peppers: PepperRing, principal: Find
) -> None:
    async with database.unit_of_work(Actor("test")) as uow:
        admin = await uow.keys(None).create("ops", peppers=peppers)
        rotation = await uow.keys(None).rotate(admin.summary.prefix, peppers=peppers, overlap=NOTHING)

    found = await principal(rotation.issued)
    assert found is not None
    assert found.role is Role.ADMIN


async def test_a_successor_can_be_rotated_itself(rotate: Rotate, issued: IssuedKey) -> None:
    first = await rotate(issued.summary.prefix)
    second = await rotate(first.issued.summary.prefix)

    assert second.issued.summary.rotated_from == first.issued.summary.id
    assert second.issued.summary.expires_at == NEXT_MONTH


async def test_a_key_is_rotated_once_and_the_refusal_names_its_successor(
    rotate: Rotate, issued: IssuedKey
) -> None:
    rotation = await rotate(issued.summary.prefix, overlap=NOTHING)

    with pytest.raises(KeyReplaced, match=rotation.issued.summary.prefix):
        await rotate(issued.summary.prefix)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ("UPDATE api_keys SET status = 'revoked'", KeyEnded),
        ("UPDATE api_keys SET expires_at = now()", KeyExpired),
        ("UPDATE api_keys SET id = gen_random_uuid(), prefix = 'nng_00000000'", KeyUnknown),
    ],
)
async def test_a_key_that_does_not_work_cannot_be_rotated(
    rotate: Rotate, issued: IssuedKey, sql: asyncpg.Connection, change: str, refusal: type[ControlError]
) -> None:
    await sql.execute("DELETE FROM model_grants")
    await sql.execute("DELETE FROM key_limits")
    await sql.execute(change)

    with pytest.raises(refusal):
        await rotate(issued.summary.prefix)
    assert await sql.fetchval("SELECT count(*) FROM api_keys") == 1


async def test_a_successor_cannot_have_ended_already(
    rotate: Rotate, issued: IssuedKey, sql: asyncpg.Connection
) -> None:
    with pytest.raises(ExpiryPast):
        await rotate(issued.summary.prefix, expires_at=datetime.now(UTC) - HOUR)
    assert await sql.fetchval("SELECT count(*) FROM api_keys") == 1


async def test_of_two_at_once_one_rotates_and_one_is_refused(
    rotate: Rotate, issued: IssuedKey, sql: asyncpg.Connection
) -> None:
    outcomes = await asyncio.gather(
        *(rotate(issued.summary.prefix) for _ in range(4)), return_exceptions=True
    )

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["KeyReplaced"] * 3 + ["Rotation"]
    assert await sql.fetchval("SELECT count(*) FROM api_keys") == 2


async def test_the_caches_hear_of_the_key_that_ends(
    rotate: Rotate, issued: IssuedKey, sql: asyncpg.Connection
) -> None:
    before = await sql.fetchval("SELECT max(seq) FROM revocations")
    await rotate(issued.summary.prefix)

    assert await sql.fetchval(
        "SELECT count(*) FROM revocations WHERE seq > $1 AND id = $2", before, issued.summary.id
    )


async def test_the_log_tells_both_halves(rotate: Rotate, issued: IssuedKey, sql: asyncpg.Connection) -> None:
    rotation = await rotate(issued.summary.prefix)

    rotated, created = await sql.fetch(
        "SELECT action, subject, before, after FROM audit_events ORDER BY at DESC, id DESC LIMIT 2"
    )
    after = msgspec.json.decode(created["after"])
    assert created["subject"] == f"key:{rotation.issued.summary.id}"
    assert after["rotated_from"] == str(issued.summary.id)
    assert after["limits"]["tokens_per_day"] == 9
    assert {grant["pattern"] for grant in after["grants"]} == {"llama3*", "qwen3:8b"}
    assert (rotated["action"], rotated["subject"]) == ("key.rotate", f"key:{issued.summary.id}")
    assert rotated["before"] != rotated["after"]
