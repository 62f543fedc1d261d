"""Grants of a tenant and of its keys."""

import asyncpg
import pytest

from db.postgres import Database, UnitOfWork
from domain.keys import PepperRing
from domain.tenants import Actor, KeySummary, KeyUnknown, PatternInvalid, Tenant


@pytest.fixture
async def acme(uow: UnitOfWork) -> Tenant:
    return await uow.tenants.create("acme", "Acme")


@pytest.fixture
async def key(uow: UnitOfWork, acme: Tenant, peppers: PepperRing) -> KeySummary:
    return (await uow.keys(acme.id).create("k", peppers=peppers)).summary


async def test_grants_are_listed_by_pattern(uow: UnitOfWork, acme: Tenant, key: KeySummary) -> None:
    grants = uow.grants(acme.id)
    await grants.allow("qwen3:*")
    await grants.allow("llama3.2", key=key.prefix)

    assert [(grant.pattern, grant.key_id) for grant in await grants.list()] == [
        ("llama3.2:latest", key.id),
        ("qwen3:*", None),
    ]


async def test_the_grants_of_one_key_are_listed_alone(uow: UnitOfWork, acme: Tenant, key: KeySummary) -> None:
    grants = uow.grants(acme.id)
    await grants.allow("qwen3:*")
    await grants.allow("qwen3:8b", key=str(key.id))

    assert [grant.pattern for grant in await grants.list(key=key.prefix)] == ["qwen3:8b"]


async def test_granting_twice_says_that_it_was_granted(uow: UnitOfWork, acme: Tenant) -> None:
    grants = uow.grants(acme.id)

    assert [await grants.allow("llama3.2"), await grants.allow("LLAMA3.2:latest")] == [True, False]


async def test_a_grant_can_be_taken_back_once(uow: UnitOfWork, acme: Tenant, key: KeySummary) -> None:
    grants = uow.grants(acme.id)
    await grants.allow("qwen3:8b", key=key.prefix)

    assert [await grants.disallow("qwen3:8b", key=key.prefix) for _ in range(2)] == [True, False]
    assert await grants.list() == ()


async def test_taking_back_from_a_key_leaves_the_tenants_grant(
    uow: UnitOfWork, acme: Tenant, key: KeySummary
) -> None:
    grants = uow.grants(acme.id)
    await grants.allow("qwen3:8b")
    await grants.allow("qwen3:8b", key=key.prefix)
    await grants.disallow("qwen3:8b", key=key.prefix)

    assert [grant.key_id for grant in await grants.list()] == [None]


@pytest.mark.parametrize("pattern", ["", " ", "a b", "a\nb", "ä"])
async def test_a_pattern_no_model_can_match_is_refused(uow: UnitOfWork, acme: Tenant, pattern: str) -> None:
    with pytest.raises(PatternInvalid):
        await uow.grants(acme.id).allow(pattern)


async def test_a_tenant_sees_and_touches_its_own_grants_only(
    uow: UnitOfWork, acme: Tenant, key: KeySummary
) -> None:
    await uow.grants(acme.id).allow("qwen3:8b", key=key.prefix)
    other = await uow.tenants.create("other", "Other")

    assert await uow.grants(other.id).list() == ()
    with pytest.raises(KeyUnknown):
        await uow.grants(other.id).disallow("qwen3:8b", key=key.prefix)


async def test_granting_is_audited_with_the_change(database: Database, sql: asyncpg.Connection) -> None:
    async with database.unit_of_work(Actor("cli:root")) as uow:
        tenant = await uow.tenants.create("acme", "Acme")
        await uow.grants(tenant.id).allow("qwen3:8b")
        await uow.grants(tenant.id).disallow("qwen3:8b")

    events = await sql.fetch(
        "SELECT action, subject FROM audit_events WHERE action LIKE 'grant.%' ORDER BY id"
    )
    assert [tuple(event) for event in events] == [
        ("grant.allow", f"tenant:{tenant.id}"),
        ("grant.disallow", f"tenant:{tenant.id}"),
    ]


async def test_a_grant_belongs_to_a_tenant_or_to_a_key(scratch: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="ck_model_grants_one_holder"):
        await scratch.execute("INSERT INTO model_grants (pattern) VALUES ('x')")
