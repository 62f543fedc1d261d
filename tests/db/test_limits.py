"""Limits: set level by level, carried by principals, noted as revocations and in the audit log."""

import asyncpg
import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from db.key_lookup import KeyLookup
from db.postgres import Database, UnitOfWork
from domain.keys import PepperRing
from domain.limits import LimitKind, Limits
from domain.tenants import Actor, IssuedKey, KeyUnknown, LimitInvalid, LimitSummary, Tenant
from domain.values import Principal

ALL = Limits(60, 10_000, 4, 100_000, 10**15)
EVERY_KIND = {kind: getattr(ALL, kind.value) for kind in LimitKind}


@pytest.fixture
async def acme(uow: UnitOfWork) -> Tenant:
    return await uow.tenants.create("acme", "Acme")


@pytest.fixture
async def issued(uow: UnitOfWork, acme: Tenant, peppers: PepperRing) -> IssuedKey:
    return await uow.keys(acme.id).create("k", peppers=peppers)


@pytest.mark.parametrize("of_key", [False, True])
async def test_all_that_is_set_comes_back(
    uow: UnitOfWork, acme: Tenant, issued: IssuedKey, *, of_key: bool
) -> None:
    key = issued.summary.prefix if of_key else None

    assert await uow.limits(acme.id).get(key=key) == Limits()
    assert await uow.limits(acme.id).set(EVERY_KIND, key=key)
    assert await uow.limits(acme.id).get(key=key) == ALL


async def test_levels_do_not_mix(uow: UnitOfWork, acme: Tenant, issued: IssuedKey) -> None:
    limits = uow.limits(acme.id)
    await limits.set({LimitKind.CONCURRENCY: 4})
    await limits.set({LimitKind.CONCURRENCY: 2}, key=str(issued.summary.id))

    assert await limits.list() == (
        LimitSummary(Limits(concurrency=4), None),
        LimitSummary(Limits(concurrency=2), issued.summary.id),
    )


async def test_a_key_without_limits_is_not_listed(uow: UnitOfWork, acme: Tenant, issued: IssuedKey) -> None:
    limits = uow.limits(acme.id)
    await limits.set({LimitKind.CONCURRENCY: 2}, key=issued.summary.prefix)
    await limits.clear(key=issued.summary.prefix)

    assert await limits.list() == (LimitSummary(Limits(), None),)


@pytest.mark.parametrize("of_key", [False, True])
async def test_what_is_not_named_stays(
    uow: UnitOfWork, acme: Tenant, issued: IssuedKey, *, of_key: bool
) -> None:
    key = issued.summary.prefix if of_key else None
    limits = uow.limits(acme.id)
    changes = [
        await limits.set(change, key=key)
        for change in (EVERY_KIND, {LimitKind.CONCURRENCY: None}, {LimitKind.CONCURRENCY: None}, {})
    ]

    assert changes == [True, True, False, False]
    assert await limits.get(key=key) == msgspec.structs.replace(ALL, concurrency=None)


async def test_limits_are_cleared_once(uow: UnitOfWork, acme: Tenant) -> None:
    limits = uow.limits(acme.id)
    await limits.set(EVERY_KIND)

    assert [await limits.clear() for _ in range(2)] == [True, False]
    assert await limits.get() == Limits()


async def test_setting_limits_leaves_rights_alone(uow: UnitOfWork) -> None:
    tenant = await uow.tenants.create("open", "Open", allow_all_models=True)
    await uow.limits(tenant.id).set(EVERY_KIND)

    assert (await uow.tenants.get("open")).allow_all_models


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (LimitKind.CONCURRENCY, 0),
        (LimitKind.TOKENS_PER_DAY, -1),
        (LimitKind.REQUESTS_PER_MINUTE, 2**31),
        (LimitKind.TOKENS_PER_MONTH, 10**15 + 1),
    ],
)
async def test_a_limit_that_makes_no_sense_is_refused(
    uow: UnitOfWork, acme: Tenant, kind: LimitKind, value: int
) -> None:
    with pytest.raises(LimitInvalid):
        await uow.limits(acme.id).set({kind: value})


async def test_a_tenant_touches_its_own_limits_only(uow: UnitOfWork, acme: Tenant, issued: IssuedKey) -> None:
    await uow.limits(acme.id).set(EVERY_KIND, key=issued.summary.prefix)
    other = uow.limits((await uow.tenants.create("other", "Other")).id)

    assert await other.list() == (LimitSummary(Limits(), None),)
    with pytest.raises(KeyUnknown):
        await other.set({LimitKind.CONCURRENCY: 1}, key=issued.summary.prefix)
    with pytest.raises(KeyUnknown):
        await other.clear(key=issued.summary.prefix)


async def found(engine: AsyncEngine, peppers: PepperRing, issued: IssuedKey) -> Principal:
    lookup = await KeyLookup(engine).find_by_digest(peppers.digests(issued.minted.reveal()))
    assert lookup.principal is not None
    return lookup.principal


async def test_a_principal_carries_the_limits_of_both_levels(
    database: Database, engine: AsyncEngine, peppers: PepperRing
) -> None:
    async with database.unit_of_work(Actor("test")) as uow:
        acme = await uow.tenants.create("acme", "Acme", time_zone="Asia/Kathmandu")
        issued = await uow.keys(acme.id).create("k", peppers=peppers)
        await uow.limits(acme.id).set(EVERY_KIND)
        await uow.limits(acme.id).set(
            {kind: value - 1 for kind, value in EVERY_KIND.items()}, key=issued.summary.prefix
        )

    principal = await found(engine, peppers, issued)
    assert principal.tenant_limits == ALL
    assert principal.key_limits == Limits(59, 9999, 3, 99_999, 10**15 - 1)
    assert principal.time_zone == "Asia/Kathmandu"


async def test_an_admin_key_has_no_limits(
    database: Database, engine: AsyncEngine, peppers: PepperRing
) -> None:
    async with database.unit_of_work(Actor("test")) as uow:
        issued = await uow.keys(None).create("ops", peppers=peppers)

    principal = await found(engine, peppers, issued)
    assert (principal.tenant_limits, principal.key_limits, principal.time_zone) == (Limits(), Limits(), "UTC")


async def test_each_change_of_a_limit_takes_the_revocation_road(
    database: Database, peppers: PepperRing, sql: asyncpg.Connection
) -> None:
    async with database.unit_of_work(Actor("test")) as uow:
        acme = await uow.tenants.create("acme", "Acme")
        key = (await uow.keys(acme.id).create("k", peppers=peppers)).summary
    before = await sql.fetchval("SELECT COALESCE(max(seq), 0) FROM revocations")
    for holder in (None, key.prefix):
        async with database.unit_of_work(Actor("test")) as uow:
            await uow.limits(acme.id).set({LimitKind.CONCURRENCY: 1}, key=holder)
        async with database.unit_of_work(Actor("test")) as uow:
            await uow.limits(acme.id).clear(key=holder)

    noted = await sql.fetch("SELECT scope, id FROM revocations WHERE seq > $1 ORDER BY seq", before)
    assert [tuple(row) for row in noted] == [("tenant", acme.id)] * 2 + [("key", key.id)] * 2


async def test_each_change_of_a_limit_is_audited(
    database: Database, peppers: PepperRing, sql: asyncpg.Connection
) -> None:
    async with database.unit_of_work(Actor("cli:root")) as uow:
        acme = await uow.tenants.create("acme", "Acme")
        key = (await uow.keys(acme.id).create("k", peppers=peppers)).summary
        await uow.limits(acme.id).set({LimitKind.CONCURRENCY: 4})
        await uow.limits(acme.id).set({LimitKind.CONCURRENCY: 4})
        await uow.limits(acme.id).clear()
        await uow.limits(acme.id).set({LimitKind.TOKENS_PER_DAY: 9}, key=key.prefix)

    events = await sql.fetch(
        "SELECT action, subject, before, after FROM audit_events WHERE action LIKE 'limits.%' ORDER BY at, id"
    )
    noted = [
        (
            event["action"],
            event["subject"],
            *(msgspec.json.decode(event[side], type=Limits) for side in SIDES),
        )
        for event in events
    ]
    assert noted == [
        ("limits.set", f"tenant:{acme.id}", Limits(), Limits(concurrency=4)),
        ("limits.clear", f"tenant:{acme.id}", Limits(concurrency=4), Limits()),
        ("limits.set", f"key:{key.id}", Limits(), Limits(tokens_per_day=9)),
    ]


SIDES = ("before", "after")
