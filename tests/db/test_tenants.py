"""Tenants as operators handle them."""

import asyncpg
import pytest

from db.postgres import Database, UnitOfWork
from domain.keys import PepperRing
from domain.tenants import Actor, KeyUnknown, SlugInvalid, SlugTaken, TenantStatus, TenantUnknown


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


async def test_the_owner_of_a_key_is_found_by_prefix_and_by_id(uow: UnitOfWork, peppers: PepperRing) -> None:
    tenant = await uow.tenants.create("acme", "Acme")
    key = (await uow.keys(tenant.id).create("k", peppers=peppers)).summary
    admin = (await uow.keys(None).create("a", peppers=peppers)).summary

    assert await uow.tenants.owner_of_key(key.prefix) == tenant.id
    assert await uow.tenants.owner_of_key(str(key.id)) == tenant.id
    assert await uow.tenants.owner_of_key(admin.prefix) is None
    with pytest.raises(KeyUnknown):
        await uow.tenants.owner_of_key("nng_nobody00")
