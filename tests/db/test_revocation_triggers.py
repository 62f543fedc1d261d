"""Every write that changes what a cached key carries is noted, whoever writes; nothing else is."""

from uuid import UUID

import asyncpg
import pytest
from asyncpg import RestrictViolationError

from tests.support.rows import ACME, ONE, TWO, add_acme

KEY = "key"
TENANT = "tenant"
ADD_ADMIN_KEY = """
    INSERT INTO api_keys (name, role, prefix, digest, pepper_id)
    VALUES ('k', 'admin', 'nnga_00000000', sha256('x'), 'p1')
"""


@pytest.fixture
async def sql(scratch: asyncpg.Connection) -> asyncpg.Connection:
    await add_acme(scratch)
    return scratch


async def noted(sql: asyncpg.Connection, statement: str) -> list[tuple[str, UUID]]:
    """Return what a statement adds to the revocations."""
    before = await sql.fetchval("SELECT max(seq) FROM revocations")
    await sql.execute(statement)
    rows = await sql.fetch("SELECT scope, id FROM revocations WHERE seq > $1 ORDER BY seq", before)
    return [(row["scope"], row["id"]) for row in rows]


@pytest.mark.parametrize(
    "change",
    [
        "status = 'revoked'",
        "expires_at = now() + interval '1 hour'",
        "expires_at = now() + interval '1 year'",
        "allowed_networks = '{10.1.0.0/16}'",
        "path_allowed = false",
        "role = 'admin', tenant_id = NULL",
        "id = gen_random_uuid()",
    ],
)
async def test_changing_a_key_is_noted(sql: asyncpg.Connection, change: str) -> None:
    await sql.execute("DELETE FROM key_limits")
    await sql.execute("DELETE FROM model_grants")

    assert (KEY, ONE) in await noted(sql, f"UPDATE api_keys SET {change} WHERE id = '{ONE}'")


async def test_deleting_a_key_is_noted(sql: asyncpg.Connection) -> None:
    assert set(await noted(sql, f"DELETE FROM api_keys WHERE id = '{ONE}'")) == {(KEY, ONE)}


@pytest.mark.parametrize("change", ["status = 'suspended'", "slug = 'other'", "time_zone = 'Europe/Berlin'"])
async def test_changing_a_tenant_is_noted(sql: asyncpg.Connection, change: str) -> None:
    assert await noted(sql, f"UPDATE tenants SET {change}") == [(TENANT, ACME)]


async def test_letting_a_tenant_back_in_is_noted(sql: asyncpg.Connection) -> None:
    await sql.execute("UPDATE tenants SET status = 'suspended'")

    assert await noted(sql, "UPDATE tenants SET status = 'active'") == [(TENANT, ACME)]


async def test_deleting_a_tenant_notes_it_and_its_keys(sql: asyncpg.Connection) -> None:
    assert set(await noted(sql, "DELETE FROM tenants")) == {(TENANT, ACME), (KEY, ONE), (KEY, TWO)}


@pytest.mark.parametrize(
    ("statement", "subject"),
    [
        ("UPDATE tenant_limits SET rpm = 30", (TENANT, ACME)),
        ("UPDATE tenant_limits SET allow_all_models = true", (TENANT, ACME)),
        ("""UPDATE tenant_limits SET option_policy = '{"think": {"action": "strip"}}'""", (TENANT, ACME)),
        ("DELETE FROM tenant_limits", (TENANT, ACME)),
        (f"INSERT INTO key_limits (key_id) VALUES ('{TWO}')", (KEY, TWO)),
        (
            f"INSERT INTO key_limits VALUES ('{ONE}', 7) ON CONFLICT (key_id) DO UPDATE SET rpm = excluded.rpm",
            (KEY, ONE),
        ),
        ("UPDATE key_limits SET concurrency = 1", (KEY, ONE)),
        ("DELETE FROM key_limits", (KEY, ONE)),
        (f"INSERT INTO model_grants (tenant_id, pattern) VALUES ('{ACME}', 'x')", (TENANT, ACME)),
        (f"INSERT INTO model_grants (key_id, pattern) VALUES ('{TWO}', 'x')", (KEY, TWO)),
        ("UPDATE model_grants SET pattern = 'y' WHERE key_id IS NULL", (TENANT, ACME)),
        ("UPDATE model_grants SET pattern = 'y' WHERE tenant_id IS NULL", (KEY, ONE)),
        ("DELETE FROM model_grants WHERE key_id IS NULL", (TENANT, ACME)),
        ("DELETE FROM model_grants WHERE tenant_id IS NULL", (KEY, ONE)),
    ],
)
async def test_changing_limits_or_grants_is_noted(
    sql: asyncpg.Connection, statement: str, subject: tuple[str, UUID]
) -> None:
    assert await noted(sql, statement) == [subject]


async def test_a_grant_that_changes_hands_is_noted_for_both(sql: asyncpg.Connection) -> None:
    moved = await noted(sql, f"UPDATE model_grants SET key_id = '{TWO}' WHERE key_id = '{ONE}'")

    assert set(moved) == {(KEY, ONE), (KEY, TWO)}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE api_keys SET last_used_at = now()",
        "UPDATE api_keys SET digest = sha256(digest), pepper_id = 'p2'",
        "UPDATE api_keys SET name = 'renamed', updated_at = now()",
        "UPDATE api_keys SET status = 'active'",
        "UPDATE api_keys SET status = 'revoked' WHERE false",
        "DELETE FROM api_keys WHERE false",
        "UPDATE tenants SET name = 'renamed', updated_at = now()",
        "UPDATE tenant_limits SET rpm = 60, updated_at = now()",
        "INSERT INTO tenants (slug, name) VALUES ('other', 'Other')",
        ADD_ADMIN_KEY,
    ],
)
async def test_what_no_cache_carries_is_not_noted(sql: asyncpg.Connection, statement: str) -> None:
    assert await noted(sql, statement) == []


async def test_one_statement_over_many_keys_notes_each(sql: asyncpg.Connection) -> None:
    assert await noted(sql, "UPDATE api_keys SET status = 'revoked'") == [(KEY, ONE), (KEY, TWO)]


@pytest.mark.parametrize(
    "table", ["revocations", "tenants", "api_keys", "tenant_limits", "key_limits", "model_grants"]
)
async def test_truncate_is_refused(sql: asyncpg.Connection, table: str) -> None:
    with pytest.raises(RestrictViolationError):
        await sql.execute(f"TRUNCATE {table} CASCADE")


async def test_retention_may_delete_all_but_the_newest_revocation(sql: asyncpg.Connection) -> None:
    await sql.execute("DELETE FROM revocations WHERE seq < (SELECT max(seq) FROM revocations)")

    assert await sql.fetchval("SELECT count(*) FROM revocations") == 1


@pytest.mark.parametrize("statement", ["DELETE FROM revocations", "UPDATE revocations SET seq = seq + 1"])
async def test_the_newest_revocation_must_stay_as_it_is(sql: asyncpg.Connection, statement: str) -> None:
    with pytest.raises(RestrictViolationError):
        await sql.execute(statement)


async def test_an_operator_may_raise_the_sequence(sql: asyncpg.Connection) -> None:
    await sql.execute(f"INSERT INTO revocations (seq, scope, id) VALUES (1000000, 'tenant', '{ACME}')")
    await sql.execute("UPDATE tenants SET status = 'suspended'")

    assert await sql.fetchval("SELECT max(seq) FROM revocations") == 1000001


async def test_a_writer_with_another_search_path_is_noted_too(sql: asyncpg.Connection) -> None:
    await sql.execute("SET search_path = pg_catalog")
    await sql.execute("UPDATE public.tenants SET status = 'suspended'")
    await sql.execute("RESET search_path")

    assert await sql.fetchval("SELECT scope FROM revocations ORDER BY seq DESC LIMIT 1") == TENANT
