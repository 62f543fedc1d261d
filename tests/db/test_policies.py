"""Option policies: set level by level, carried by principals, noted as revocations and in the audit log."""

import asyncpg
import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from db.key_lookup import KeyLookup
from db.postgres import Database, UnitOfWork
from domain.keys import PepperRing
from domain.option_rules import PolicyInvalid
from domain.tenants import (
    Actor,
    GrantUnknown,
    IssuedKey,
    KeyUnknown,
    PatternInvalid,
    PolicySummary,
    Tenant,
)
from domain.values import OptionPolicies, OptionRule, PolicyAction

STRIP = OptionRule(PolicyAction.STRIP)
ALLOW = OptionRule(PolicyAction.ALLOW)
REJECT = OptionRule(PolicyAction.REJECT)
AT_MOST_50 = OptionRule(PolicyAction.CLAMP, maximum=50, value=20)
A_WHILE = OptionRule(PolicyAction.CLAMP, minimum=300, maximum="1h30m")


@pytest.fixture
async def acme(uow: UnitOfWork) -> Tenant:
    return await uow.tenants.create("acme", "Acme")


@pytest.fixture
async def issued(uow: UnitOfWork, acme: Tenant, peppers: PepperRing) -> IssuedKey:
    return await uow.keys(acme.id).create("k", peppers=peppers)


@pytest.fixture
async def everywhere(uow: UnitOfWork, acme: Tenant, issued: IssuedKey) -> IssuedKey:
    """Set one rule at each of the four levels."""
    key = issued.summary.prefix
    await uow.grants(acme.id).allow("llama3")
    await uow.grants(acme.id).allow("qwen3:*", key=key)
    policies = uow.policies(acme.id)
    await policies.set("num_predict", AT_MOST_50)
    await policies.set("keep_alive", A_WHILE, pattern="LLAMA3")
    await policies.set("think", STRIP, key=key)
    await policies.set("raw", REJECT, key=key, pattern="qwen3:*")
    return issued


async def test_rules_are_listed_the_less_specific_first(
    uow: UnitOfWork, acme: Tenant, everywhere: IssuedKey
) -> None:
    key_id = everywhere.summary.id
    grants = {grant.pattern: grant.id for grant in await uow.grants(acme.id).list()}

    assert await uow.policies(acme.id).list() == (
        PolicySummary("num_predict", AT_MOST_50, None, None, None),
        PolicySummary("keep_alive", A_WHILE, None, "llama3:latest", grants["llama3:latest"]),
        PolicySummary("think", STRIP, key_id, None, None),
        PolicySummary("raw", REJECT, key_id, "qwen3:*", grants["qwen3:*"]),
    )


async def test_the_rules_of_one_key_are_listed_alone(
    uow: UnitOfWork, acme: Tenant, everywhere: IssuedKey
) -> None:
    listed = await uow.policies(acme.id).list(key=str(everywhere.summary.id))

    assert [(rule.field, rule.pattern) for rule in listed] == [("think", None), ("raw", "qwen3:*")]


@pytest.mark.parametrize("of_key", [False, True])
@pytest.mark.parametrize("pattern", [None, "llama3"])
async def test_a_rule_replaces_its_predecessor_and_leaves_other_fields(
    uow: UnitOfWork, acme: Tenant, issued: IssuedKey, pattern: str | None, *, of_key: bool
) -> None:
    key = issued.summary.prefix if of_key else None
    await uow.grants(acme.id).allow("llama3", key=key)
    policies = uow.policies(acme.id)
    changes = [
        await policies.set(field, rule, key=key, pattern=pattern)
        for field, rule in (("raw", STRIP), ("think", STRIP), ("think", STRIP), ("think", ALLOW))
    ]

    assert changes == [True, True, False, True]
    assert [(rule.field, rule.rule) for rule in await policies.list()] == [("raw", STRIP), ("think", ALLOW)]


@pytest.mark.parametrize("of_key", [False, True])
@pytest.mark.parametrize("pattern", [None, "llama3"])
async def test_a_rule_can_be_cleared_once(
    uow: UnitOfWork, acme: Tenant, issued: IssuedKey, pattern: str | None, *, of_key: bool
) -> None:
    key = issued.summary.prefix if of_key else None
    await uow.grants(acme.id).allow("llama3", key=key)
    policies = uow.policies(acme.id)
    await policies.set("raw", STRIP, key=key, pattern=pattern)
    await policies.set("think", STRIP, key=key, pattern=pattern)

    assert [await policies.clear("think", key=key, pattern=pattern) for _ in range(2)] == [True, False]
    assert [rule.field for rule in await policies.list()] == ["raw"]


async def test_setting_a_rule_leaves_rights_alone(uow: UnitOfWork) -> None:
    tenant = await uow.tenants.create("open", "Open", allow_all_models=True)
    await uow.policies(tenant.id).set("think", STRIP)

    assert (await uow.tenants.get("open")).allow_all_models


@pytest.mark.parametrize(
    ("field", "rule"),
    [
        ("temperature", STRIP),
        ("num_ctx", OptionRule(PolicyAction.CLAMP)),
        ("num_ctx", OptionRule(PolicyAction.SET, value=True)),
    ],
)
async def test_a_rule_that_makes_no_sense_is_refused(
    uow: UnitOfWork, acme: Tenant, field: str, rule: OptionRule
) -> None:
    with pytest.raises(PolicyInvalid):
        await uow.policies(acme.id).set(field, rule)


@pytest.mark.parametrize(("pattern", "refusal"), [("a b", PatternInvalid), ("llama3", GrantUnknown)])
async def test_a_rule_for_a_grant_that_is_not_there_is_refused(
    uow: UnitOfWork, acme: Tenant, pattern: str, refusal: type[Exception]
) -> None:
    with pytest.raises(refusal):
        await uow.policies(acme.id).set("think", STRIP, pattern=pattern)


async def test_a_tenant_touches_its_own_policies_only(uow: UnitOfWork, everywhere: IssuedKey) -> None:
    other = uow.policies((await uow.tenants.create("other", "Other")).id)

    assert await other.list() == ()
    assert not await other.clear("num_predict")
    with pytest.raises(KeyUnknown):
        await other.set("think", ALLOW, key=everywhere.summary.prefix)
    with pytest.raises(GrantUnknown):
        await other.clear("keep_alive", pattern="llama3")


async def found(engine: AsyncEngine, peppers: PepperRing, issued: IssuedKey) -> OptionPolicies | None:
    lookup = await KeyLookup(engine).find_by_digest(peppers.digests(issued.minted.reveal()))
    assert lookup.principal is not None
    return lookup.principal.option_policies


async def issue(database: Database, peppers: PepperRing) -> IssuedKey:
    async with database.unit_of_work(Actor("test")) as uow:
        acme = await uow.tenants.create("acme", "Acme")
        return await uow.keys(acme.id).create("k", peppers=peppers)


async def test_a_principal_without_policies_says_so(
    database: Database, engine: AsyncEngine, peppers: PepperRing
) -> None:
    assert await found(engine, peppers, await issue(database, peppers)) is None


async def test_a_principal_carries_the_policies_of_all_levels(
    database: Database, engine: AsyncEngine, peppers: PepperRing
) -> None:
    issued = await issue(database, peppers)
    tenant_id, key = issued.summary.tenant_id, issued.summary.prefix
    assert tenant_id is not None
    async with database.unit_of_work(Actor("test")) as uow:
        for holder in (None, key):
            await uow.grants(tenant_id).allow("llama3", key=holder)
            await uow.grants(tenant_id).allow("qwen3:*", key=holder)
        await uow.policies(tenant_id).set("num_predict", AT_MOST_50)
        await uow.policies(tenant_id).set("keep_alive", A_WHILE, pattern="llama3")
        await uow.policies(tenant_id).set("think", STRIP, key=key)
        await uow.policies(tenant_id).set("raw", REJECT, key=key, pattern="qwen3:*")

    policies = await found(engine, peppers, issued)
    assert policies == OptionPolicies(
        tenant={"num_predict": AT_MOST_50},
        tenant_grants={"llama3:latest": {"keep_alive": A_WHILE}},
        key={"think": STRIP},
        key_grants={"qwen3:*": {"raw": REJECT}},
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(policies), type=OptionPolicies) == policies


async def test_a_rule_that_raw_sql_damaged_refuses_its_field(
    database: Database, engine: AsyncEngine, peppers: PepperRing, sql: asyncpg.Connection
) -> None:
    issued = await issue(database, peppers)
    await sql.execute(
        """UPDATE tenant_limits SET option_policy = '{"num_ctx": {"action": "clam"}, "raw": null}'"""
    )

    policies = await found(engine, peppers, issued)
    assert policies is not None
    assert policies.tenant == {"num_ctx": REJECT, "raw": REJECT}
    assert issued.summary.tenant_id is not None
    async with database.unit_of_work(Actor("test")) as uow:
        listed = await uow.policies(issued.summary.tenant_id).list()
    assert [(rule.field, rule.rule) for rule in listed] == [("num_ctx", None), ("raw", None)]


async def test_each_change_of_a_policy_takes_the_revocation_road(
    database: Database, peppers: PepperRing, sql: asyncpg.Connection
) -> None:
    issued = await issue(database, peppers)
    tenant_id, key = issued.summary.tenant_id, issued.summary.prefix
    assert tenant_id is not None
    async with database.unit_of_work(Actor("test")) as uow:
        await uow.grants(tenant_id).allow("llama3")
        await uow.grants(tenant_id).allow("llama3", key=key)
    before = await sql.fetchval("SELECT max(seq) FROM revocations")
    for holder, pattern in ((None, None), (None, "llama3"), (key, None), (key, "llama3")):
        async with database.unit_of_work(Actor("test")) as uow:
            await uow.policies(tenant_id).set("think", STRIP, key=holder, pattern=pattern)
        async with database.unit_of_work(Actor("test")) as uow:
            await uow.policies(tenant_id).clear("think", key=holder, pattern=pattern)

    noted = await sql.fetch("SELECT scope, id FROM revocations WHERE seq > $1 ORDER BY seq", before)
    of_tenant, of_key = ("tenant", tenant_id), ("key", issued.summary.id)
    assert [tuple(row) for row in noted] == [of_tenant] * 4 + [of_key] * 4


async def test_each_change_of_a_policy_is_audited(
    database: Database, peppers: PepperRing, sql: asyncpg.Connection
) -> None:
    issued = await issue(database, peppers)
    tenant_id, key = issued.summary.tenant_id, issued.summary.prefix
    assert tenant_id is not None
    async with database.unit_of_work(Actor("cli:root")) as uow:
        await uow.policies(tenant_id).set("num_predict", AT_MOST_50)
        await uow.policies(tenant_id).set("think", STRIP, key=key)
        await uow.policies(tenant_id).set("think", STRIP, key=key)
        await uow.policies(tenant_id).clear("num_predict")

    events = await sql.fetch(
        "SELECT action, subject, before, after FROM audit_events WHERE action LIKE 'policy.%' ORDER BY at, id"
    )
    rule = '{"rule": {"max": 50, "value": 20, "action": "clamp"}, "field": "num_predict", "pattern": null}'
    strip = '{"rule": {"action": "strip"}, "field": "think", "pattern": null}'
    assert [tuple(event) for event in events] == [
        ("policy.set", f"tenant:{tenant_id}", None, rule),
        ("policy.set", f"key:{issued.summary.id}", None, strip),
        ("policy.clear", f"tenant:{tenant_id}", rule, None),
    ]
