"""Keys: issued once, bound to their tenant, found by digest while usable."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from db.key_lookup import KeyLookup
from db.postgres import Database, UnitOfWork
from db.revocations import Revocations
from domain.keys import PepperRing, mint_pepper
from domain.tenants import Actor, Found, IssuedKey, KeyStatus, KeyUnknown, KeyUse, Tenant, TenantStatus
from domain.values import Limits, Principal, Rights, Role

TOMORROW = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
ALL = Rights(allow_all_models=True)
NONE = Rights()


@pytest.fixture
async def acme(database: Database) -> Tenant:
    async with database.unit_of_work(Actor("test")) as uow:
        return await uow.tenants.create("acme", "Acme")


@pytest.fixture
async def issued(database: Database, acme: Tenant, peppers: PepperRing) -> IssuedKey:
    async with database.unit_of_work(Actor("test")) as uow:
        return await uow.keys(acme.id).create("laptop", peppers=peppers)


@pytest.fixture
def lookup(engine: AsyncEngine) -> KeyLookup:
    return KeyLookup(engine)


async def found(lookup: KeyLookup, peppers: PepperRing, issued: IssuedKey) -> Found:
    return await lookup.find_by_digest(peppers.digests(issued.minted.reveal()))


async def test_a_key_is_found_by_its_digest(
    lookup: KeyLookup, peppers: PepperRing, acme: Tenant, issued: IssuedKey
) -> None:
    assert (await found(lookup, peppers, issued)).principal == Principal(
        tenant_id=acme.id,
        tenant_slug="acme",
        key_id=issued.summary.id,
        key_prefix=issued.minted.prefix,
        role=Role.INFERENCE,
        tenant_rights=NONE,
        key_rights=None,
        option_policies=None,
        tenant_limits=Limits(),
        key_limits=Limits(),
        time_zone="UTC",
        path_allowed=False,
        expires_at=None,
    )


async def test_an_admin_key_belongs_to_no_tenant(
    database: Database, lookup: KeyLookup, peppers: PepperRing
) -> None:
    async with database.unit_of_work(Actor("test")) as uow:
        admin = await uow.keys(None).create("ops", peppers=peppers)

    principal = (await found(lookup, peppers, admin)).principal
    assert principal is not None
    assert (principal.tenant_id, principal.tenant_slug, principal.role) == (None, "", Role.ADMIN)


async def test_a_key_that_may_stand_in_paths_says_so(
    database: Database, lookup: KeyLookup, peppers: PepperRing, acme: Tenant
) -> None:
    async with database.unit_of_work(Actor("test")) as uow:
        issued = await uow.keys(acme.id).create("cli", peppers=peppers, path_allowed=True)

    principal = (await found(lookup, peppers, issued)).principal
    assert principal is not None
    assert (principal.path_allowed, issued.summary.path_allowed) == (True, True)


async def test_expiry_and_networks_reach_the_principal(
    database: Database, lookup: KeyLookup, peppers: PepperRing, acme: Tenant
) -> None:
    async with database.unit_of_work(Actor("test")) as uow:
        issued = await uow.keys(acme.id).create(
            "k",
            peppers=peppers,
            expires_at=TOMORROW,
            allowed_networks=[ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")],
        )

    principal = (await found(lookup, peppers, issued)).principal
    assert principal is not None
    assert principal.expires_at == TOMORROW
    assert principal.allowed_networks == ("10.0.0.0/8", "2001:db8::/32")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE api_keys SET status = 'revoked'",
        "UPDATE api_keys SET expires_at = now()",
        "UPDATE tenants SET status = 'suspended'",
        "DELETE FROM api_keys",
        "DELETE FROM tenants",
    ],
)
async def test_a_key_that_is_not_usable_is_not_found(
    lookup: KeyLookup, peppers: PepperRing, issued: IssuedKey, sql: asyncpg.Connection, change: str
) -> None:
    await sql.execute(change)

    assert (await found(lookup, peppers, issued)).principal is None


async def test_the_answer_carries_the_newest_seq_with_or_without_a_key(
    lookup: KeyLookup, peppers: PepperRing, issued: IssuedKey, engine: AsyncEngine, sql: asyncpg.Connection
) -> None:
    known = await found(lookup, peppers, issued)
    await sql.execute("UPDATE api_keys SET status = 'revoked'")
    unknown = await found(lookup, peppers, issued)

    assert unknown.seq == known.seq + 1 == await Revocations(engine).latest_seq()


@pytest.mark.parametrize(
    ("tenant_all", "key_all", "key_patterns", "rights"),
    [
        ("true", None, [], (ALL, None)),
        ("true", "true", ["a:1"], (ALL, ALL)),
        ("true", "false", [], (ALL, NONE)),
        ("true", "false", ["a:1"], (ALL, Rights(patterns=("a:1",)))),
        ("false", None, ["b:1", "a:1"], (NONE, Rights(patterns=("a:1", "b:1")))),
        ("false", "NULL", [], (NONE, None)),
    ],
)
async def test_rights_follow_limits_and_grants(
    *,
    lookup: KeyLookup,
    peppers: PepperRing,
    issued: IssuedKey,
    sql: asyncpg.Connection,
    tenant_all: str,
    key_all: str | None,
    key_patterns: list[str],
    rights: tuple[Rights, Rights | None],
) -> None:
    await sql.execute(f"UPDATE tenant_limits SET allow_all_models = {tenant_all}")
    if key_all is not None:
        await sql.execute(
            f"INSERT INTO key_limits (key_id, allow_all_models) VALUES ($1, {key_all})", issued.summary.id
        )
    for pattern in key_patterns:
        await sql.execute(
            "INSERT INTO model_grants (key_id, pattern) VALUES ($1, $2)", issued.summary.id, pattern
        )

    principal = (await found(lookup, peppers, issued)).principal
    assert principal is not None
    assert (principal.tenant_rights, principal.key_rights) == rights


async def test_a_used_key_moves_to_the_minting_pepper(
    database: Database, lookup: KeyLookup, acme: Tenant, engine: AsyncEngine
) -> None:
    old, new = mint_pepper("old"), mint_pepper("new")
    async with database.unit_of_work(Actor("test")) as uow:
        issued = await uow.keys(acme.id).create("k", peppers=PepperRing.parse(old))
    both = PepperRing.parse(f"{new},{old}")
    assert (await found(lookup, both, issued)).pepper_id == "old"
    before = await Revocations(engine).latest_seq()

    digest = both.mint_digest(issued.minted.reveal())
    await lookup.touch([KeyUse(issued.summary.id, datetime.now(UTC), redigest=digest)])

    assert (await found(lookup, PepperRing.parse(new), issued)).pepper_id == "new"
    assert (await found(lookup, PepperRing.parse(old), issued)).principal is None
    assert await Revocations(engine).latest_seq() == before


async def test_touching_notes_the_latest_use_only(
    database: Database, lookup: KeyLookup, acme: Tenant, issued: IssuedKey
) -> None:
    await lookup.touch([KeyUse(issued.summary.id, TOMORROW)])
    await lookup.touch([KeyUse(issued.summary.id, TOMORROW - timedelta(days=1))])

    async with database.unit_of_work(Actor("test")) as uow:
        (key,) = await uow.keys(acme.id).list()
    assert key.last_used_at == TOMORROW


async def test_touching_does_not_wait_for_a_writer(
    lookup: KeyLookup, issued: IssuedKey, sql: asyncpg.Connection
) -> None:
    async with sql.transaction():
        await sql.execute("UPDATE api_keys SET name = 'held'")
        await lookup.touch([KeyUse(issued.summary.id, TOMORROW)])

    assert await sql.fetchval("SELECT last_used_at FROM api_keys") is None


async def test_a_revoked_key_says_so_in_the_list(uow: UnitOfWork, acme: Tenant, issued: IssuedKey) -> None:
    revoked = await uow.keys(acme.id).revoke(issued.minted.prefix)

    assert revoked.status is KeyStatus.REVOKED
    assert await uow.keys(acme.id).list() == (revoked,)


async def test_revoking_by_id_and_twice_changes_nothing_more(
    database: Database, acme: Tenant, issued: IssuedKey, sql: asyncpg.Connection
) -> None:
    for _ in range(2):
        async with database.unit_of_work(Actor("test")) as uow:
            await uow.keys(acme.id).revoke(str(issued.summary.id))

    assert await sql.fetchval("SELECT count(*) FROM audit_events WHERE action = 'key.revoke'") == 1


@pytest.mark.parametrize("reference", ["prefix", "id"])
async def test_a_tenant_cannot_reach_the_key_of_another(
    uow: UnitOfWork, issued: IssuedKey, reference: str
) -> None:
    other = await uow.tenants.create("other", "Other")
    name = issued.minted.prefix if reference == "prefix" else str(issued.summary.id)

    assert await uow.keys(other.id).list() == ()
    for stranger in (other.id, None):
        with pytest.raises(KeyUnknown):
            await uow.keys(stranger).revoke(name)


async def test_a_suspended_tenant_is_let_back_in_with_its_keys(
    database: Database, lookup: KeyLookup, peppers: PepperRing, issued: IssuedKey
) -> None:
    for status in (TenantStatus.SUSPENDED, TenantStatus.ACTIVE):
        async with database.unit_of_work(Actor("test")) as uow:
            await uow.tenants.set_status("acme", status)

    assert (await found(lookup, peppers, issued)).principal is not None


async def test_the_secret_is_stored_nowhere(issued: IssuedKey, sql: asyncpg.Connection) -> None:
    row = str(await sql.fetchval("SELECT k::text FROM api_keys AS k"))

    assert issued.minted.reveal().split("_")[2] not in row


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ("NULL, 'inference', 'nng_00000000', sha256('x')", "ck_api_keys_tenant_matches_role"),
        (
            "(SELECT id FROM tenants), 'admin', 'nnga_00000000', sha256('x')",
            "ck_api_keys_tenant_matches_role",
        ),
        ("NULL, 'owner', 'nnga_00000000', sha256('x')", "ck_api_keys_role_known"),
        ("NULL, 'admin', 'nnga_0', sha256('x')", "ck_api_keys_prefix_format"),
        ("NULL, 'admin', 'nnga_00000000', 'x'", "ck_api_keys_digest_length"),
    ],
)
async def test_the_database_refuses_a_key_that_makes_no_sense(
    scratch: asyncpg.Connection, values: str, rule: str
) -> None:
    await scratch.execute("INSERT INTO tenants (id, slug, name) VALUES ($1, 'acme', 'Acme')", UUID(int=1))
    with pytest.raises(asyncpg.CheckViolationError, match=rule):
        await scratch.execute(
            f"INSERT INTO api_keys (name, pepper_id, tenant_id, role, prefix, digest) VALUES ('k', 'p', {values})"
        )
