"""Tenants as operators handle them."""

import asyncio
from collections import Counter

import asyncpg
import msgspec
import pytest

from db.postgres import Database, UnitOfWork
from domain.keys import PepperRing
from domain.tenants import (
    Actor,
    KeyUnknown,
    NameMissing,
    SlugInvalid,
    SlugTaken,
    TenantChange,
    TenantStatus,
    TenantUnknown,
    TimeZoneUnknown,
)


async def test_a_new_tenant_is_active_and_may_use_nothing(uow: UnitOfWork) -> None:
    tenant = await uow.tenants.create("acme", "Acme Ltd", time_zone="Europe/Berlin")

    assert (tenant.slug, tenant.name, tenant.status, tenant.time_zone, tenant.allow_all_models) == (
        *("acme", "Acme Ltd", TenantStatus.ACTIVE, "Europe/Berlin"),
        False,
    )


async def test_a_new_tenant_may_be_given_every_model(uow: UnitOfWork) -> None:
    await uow.tenants.create("acme", "Acme", allow_all_models=True)

    assert (await uow.tenants.get("acme")).allow_all_models


async def test_a_tenant_without_a_row_of_limits_may_use_nothing(
    uow: UnitOfWork, sql: asyncpg.Connection
) -> None:
    await sql.execute("INSERT INTO tenants (slug, name) VALUES ('bare', 'Bare')")

    assert not (await uow.tenants.get("bare")).allow_all_models


async def test_tenants_are_listed_by_slug(uow: UnitOfWork) -> None:
    for slug in ("zeta", "acme", "m-1"):
        await uow.tenants.create(slug, slug)

    assert [tenant.slug for tenant in await uow.tenants.list()] == ["acme", "m-1", "zeta"]


async def test_a_slug_is_taken_once(database: Database) -> None:
    async with database.unit_of_work(Actor("test")) as uow:
        await uow.tenants.create("acme", "Acme")

    with pytest.raises(SlugTaken):
        async with database.unit_of_work(Actor("test")) as uow:
            await uow.tenants.create("acme", "Other")


@pytest.mark.parametrize("slug", ["", "Acme", "-acme", "acme-", "a_b", "a" * 64, "acme\n", "ä"])
async def test_a_slug_that_fits_nowhere_is_refused(uow: UnitOfWork, slug: str) -> None:
    with pytest.raises(SlugInvalid):
        await uow.tenants.create(slug, "x")


@pytest.mark.parametrize("slug", ["", "Acme", "-acme", "acme-", "a_b", "a" * 64, "acme\n"])
async def test_the_database_refuses_such_a_slug_too(scratch: asyncpg.Connection, slug: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="ck_tenants_slug_format"):
        await scratch.execute("INSERT INTO tenants (slug, name) VALUES ($1, 'x')", slug)


async def test_an_unknown_tenant_is_told_by_its_slug(uow: UnitOfWork) -> None:
    with pytest.raises(TenantUnknown, match="there is no tenant 'nobody'"):
        await uow.tenants.get("nobody")


async def test_a_tenant_can_be_suspended_and_let_back_in(uow: UnitOfWork) -> None:
    await uow.tenants.create("acme", "Acme")

    assert (await uow.tenants.set_status("acme", TenantStatus.SUSPENDED)).status is TenantStatus.SUSPENDED
    assert (await uow.tenants.set_status("acme", TenantStatus.ACTIVE)).status is TenantStatus.ACTIVE


@pytest.mark.parametrize(
    ("change", "after", "noted"),
    [
        (TenantChange(name=" Acme Ltd "), {"name": "Acme Ltd"}, 0),
        (TenantChange(time_zone="Asia/Tokyo"), {"time_zone": "Asia/Tokyo"}, 1),
        (TenantChange(allow_all_models=True), {"allow_all_models": True}, 1),
        (
            TenantChange("A", "Asia/Tokyo", allow_all_models=False),
            {"name": "A", "time_zone": "Asia/Tokyo"},
            1,
        ),
        (TenantChange(), {}, 0),
    ],
    ids=str,
)
async def test_what_is_named_changes_and_caches_hear_of_what_they_hold(
    uow: UnitOfWork, change: TenantChange, after: dict[str, object], noted: int
) -> None:
    before = await uow.tenants.create("acme", "Acme")
    _, newest = await uow.revocations.span()

    assert await uow.tenants.change("acme", change) == msgspec.structs.replace(before, **after)
    assert await uow.revocations.span() == (min(newest + noted, 1), newest + noted)


async def test_all_models_may_be_opened_to_a_tenant_without_a_row_of_limits(
    uow: UnitOfWork, sql: asyncpg.Connection
) -> None:
    await sql.execute("INSERT INTO tenants (slug, name) VALUES ('bare', 'Bare')")

    assert (await uow.tenants.change("bare", TenantChange(allow_all_models=True))).allow_all_models


@pytest.mark.parametrize(
    ("change", "refusal"),
    [(TenantChange(name=" "), NameMissing), (TenantChange(time_zone="Mars/Olympus"), TimeZoneUnknown)],
)
async def test_a_change_that_makes_no_sense_is_refused(
    uow: UnitOfWork, change: TenantChange, refusal: type[Exception]
) -> None:
    tenant = await uow.tenants.create("acme", "Acme")

    with pytest.raises(refusal):
        await uow.tenants.change("acme", change)
    assert await uow.tenants.get("acme") == tenant


async def test_changes_of_one_tenant_from_many_sides_wait_for_each_other(
    database: Database, sql: asyncpg.Connection
) -> None:
    """Each takes rows of two tables; without one order they would deadlock."""
    async with database.unit_of_work(Actor("test")) as uow:
        await uow.tenants.create("acme", "Acme")

    async def suspend_and_let_in() -> None:
        for status in (TenantStatus.SUSPENDED, TenantStatus.ACTIVE) * 10:
            async with database.unit_of_work(Actor("test")) as uow:
                await uow.tenants.set_status("acme", status)

    async def rename() -> None:
        for number in range(20):
            async with database.unit_of_work(Actor("test")) as uow:
                await uow.tenants.change(
                    "acme", TenantChange(f"A{number}", allow_all_models=bool(number % 2))
                )

    await asyncio.gather(suspend_and_let_in(), suspend_and_let_in(), rename(), rename())

    chain = await sql.fetch("SELECT before, after FROM audit_events WHERE subject LIKE 'tenant:%'")
    left, found = (Counter(row[side] for row in chain) for side in ("after", "before"))
    assert (left - found).total() == 1  # what each found is what another had left, but for the last one


async def test_the_owner_of_a_key_is_found_by_prefix_and_by_id(uow: UnitOfWork, peppers: PepperRing) -> None:
    tenant = await uow.tenants.create("acme", "Acme")
    key = (await uow.keys(tenant.id).create("k", peppers=peppers)).summary
    admin = (await uow.keys(None).create("a", peppers=peppers)).summary

    assert await uow.tenants.owner_of_key(key.prefix) == tenant.id
    assert await uow.tenants.owner_of_key(str(key.id)) == tenant.id
    assert await uow.tenants.owner_of_key(admin.prefix) is None
    with pytest.raises(KeyUnknown):
        await uow.tenants.owner_of_key("nng_nobody00")
