"""Every write of tenants, keys, grants, limits, policies and backends leaves one event for each thing it changed."""

import inspect
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from db.backend_states import BackendStates
from db.grants import Grants
from db.keys import Keys
from db.limits import LimitLevels
from db.policies import Policies
from db.postgres import Database, UnitOfWork
from db.tenants import Tenants
from domain.first_key import FirstKey
from domain.keys import PepperRing
from domain.limits import LimitKind
from domain.tenants import Actor, KeyChange, Tenant, TenantChange, TenantStatus
from domain.values import OptionRule, PolicyAction

ACTOR = Actor("nnga_abcdefgh", UUID("00000000-0000-7000-8000-00000000000f"), "192.0.2.7")
TOMORROW = datetime.now(UTC) + timedelta(days=1)
STRIP = OptionRule(PolicyAction.STRIP)
FIRST_KEY = FirstKey(prefix="nnga_00000000", pepper_id="p1", digest=bytes(32))
READS = {
    *(Tenants.list, Tenants.get, Tenants.owner_of_key),
    *(Keys.list, Keys.get),
    *(Grants.list, Grants.get, LimitLevels.list, LimitLevels.get, LimitLevels.of_keys),
    *(Policies.list, Policies.get, BackendStates.drained),
}


class World:
    """A tenant `acme` that has one of everything, and a way to each repository in the unit of work of the moment."""

    def __init__(self, peppers: PepperRing, tenant: Tenant, key: str, grant: UUID) -> None:
        self.peppers = peppers
        self.key = key
        self.grant = grant
        self._tenant_id = tenant.id
        self.uow: UnitOfWork

    @property
    def keys(self) -> Keys:
        return self.uow.keys(self._tenant_id)

    @property
    def grants(self) -> Grants:
        return self.uow.grants(self._tenant_id)

    @property
    def limits(self) -> LimitLevels:
        return self.uow.limits(self._tenant_id)

    @property
    def policies(self) -> Policies:
        return self.uow.policies(self._tenant_id)


@pytest.fixture
async def world(database: Database, peppers: PepperRing) -> World:
    async with database.unit_of_work(Actor("test")) as uow:
        tenant = await uow.tenants.create("acme", "Acme")
        key = (await uow.keys(tenant.id).create("laptop", peppers=peppers)).summary.prefix
        await uow.grants(tenant.id).allow("llama3", key=key)
        await uow.grants(tenant.id).allow("llama3")
        (grant,) = await uow.grants(tenant.id).list(below=False)
        await uow.limits(tenant.id).set({LimitKind.CONCURRENCY: 4}, key=key)
        await uow.policies(tenant.id).set("think", STRIP, key=key, pattern="llama3")
        await uow.backends.drain("a", "a new card")
    return World(peppers, tenant, key, grant.id)


NEW, OLD, BOTH = (False, True), (True, False), (True, True)

Write = Callable[[World], Awaitable[Any]]
# Which method, how it is called, and of each event its action and whether it tells before and after.
WRITES: dict[Any, tuple[Write, list[tuple[str, tuple[bool, bool]]]]] = {
    Tenants.create: (lambda w: w.uow.tenants.create("other", "Other"), [("tenant.create", NEW)]),
    Tenants.set_status: (
        lambda w: w.uow.tenants.set_status("acme", TenantStatus.SUSPENDED),
        [("tenant.suspend", BOTH)],
    ),
    Tenants.change: (
        lambda w: w.uow.tenants.change("acme", TenantChange("A", "Europe/Berlin", allow_all_models=True)),
        [("tenant.set", BOTH)],
    ),
    Keys.create: (lambda w: w.keys.create("k", peppers=w.peppers), [("key.create", NEW)]),
    Keys.add_minted: (
        lambda w: w.uow.keys(None).add_minted(FIRST_KEY, name="first"),
        [("key.create", NEW)],
    ),
    Keys.rotate: (
        lambda w: w.keys.rotate(w.key, peppers=w.peppers, overlap=timedelta(hours=1)),
        [("key.create", NEW), ("key.rotate", BOTH)],
    ),
    Keys.change: (lambda w: w.keys.change(w.key, KeyChange(expires_at=TOMORROW)), [("key.set", BOTH)]),
    Keys.revoke: (lambda w: w.keys.revoke(w.key), [("key.revoke", BOTH)]),
    Grants.allow: (lambda w: w.grants.allow("qwen3", key=w.key), [("grant.allow", NEW)]),
    Grants.disallow: (lambda w: w.grants.disallow("llama3", key=w.key), [("grant.disallow", OLD)]),
    Grants.remove: (lambda w: w.grants.remove(w.grant), [("grant.disallow", OLD)]),
    LimitLevels.set: (
        lambda w: w.limits.set({LimitKind.CONCURRENCY: 5}, key=w.key),
        [("limits.set", BOTH)],
    ),
    LimitLevels.clear: (lambda w: w.limits.clear(key=w.key), [("limits.clear", BOTH)]),
    Policies.set: (lambda w: w.policies.set("raw", STRIP, key=w.key), [("policy.set", NEW)]),
    Policies.clear: (
        lambda w: w.policies.clear("think", key=w.key, pattern="llama3"),
        [("policy.clear", OLD)],
    ),
    BackendStates.drain: (lambda w: w.uow.backends.drain("b", "moved"), [("backend.drain", NEW)]),
    BackendStates.undrain: (lambda w: w.uow.backends.undrain("a"), [("backend.undrain", OLD)]),
}

ALWAYS_NEW = {Tenants.create, Keys.create, Keys.rotate}


def test_no_method_of_a_repository_is_forgotten_here() -> None:
    methods = {
        method
        for repository in (Tenants, Keys, Grants, LimitLevels, Policies, BackendStates)
        for name, method in inspect.getmembers(repository, inspect.iscoroutinefunction)
        if not name.startswith("_")
    }

    assert methods == READS | set(WRITES)


async def events_of(write: Write, *, world: World, database: Database, sql: asyncpg.Connection) -> list[Any]:
    """Let somebody write, and return the events that this left."""
    number = await sql.fetchval("SELECT count(*) FROM audit_events")
    async with database.unit_of_work(ACTOR) as world.uow:
        await write(world)
    return list(await sql.fetch("SELECT * FROM audit_events ORDER BY at, id OFFSET $1", number))


@pytest.mark.parametrize("method", WRITES, ids=lambda method: method.__qualname__)
async def test_a_write_leaves_its_events_and_none_when_nothing_is_left_to_change(
    world: World, database: Database, sql: asyncpg.Connection, method: Any
) -> None:
    write, expected = WRITES[method]

    events = await events_of(write, world=world, database=database, sql=sql)

    assert [(e["action"], (e["before"] is not None, e["after"] is not None)) for e in events] == expected
    assert all(e["before"] != e["after"] for e in events)
    assert {(e["actor"], e["request_id"], str(e["address"])) for e in events} == {
        (ACTOR.name, ACTOR.request_id, ACTOR.address)
    }
    if method not in ALWAYS_NEW:
        assert await events_of(write, world=world, database=database, sql=sql) == []


async def test_a_grant_that_goes_says_which_policy_goes_with_it(
    world: World, database: Database, sql: asyncpg.Connection
) -> None:
    write, _ = WRITES[Grants.disallow]

    (event,) = await events_of(write, world=world, database=database, sql=sql)

    assert msgspec.json.decode(event["before"]) == {
        "pattern": "llama3:latest",
        "option_policy": {"think": {"action": "strip"}},
    }
