"""Rows written by plain SQL, the way an operator's psql would: no code of the product takes part."""

from itertools import count
from uuid import UUID

import asyncpg

ACME = UUID("00000000-0000-7000-8000-00000000000a")
ONE = UUID("00000000-0000-7000-8000-000000000001")
TWO = UUID("00000000-0000-7000-8000-000000000002")
_numbers = count(1)


async def add_acme(sql: asyncpg.Connection) -> None:
    """Add a tenant with two keys, and limits and grants for itself and for key ONE."""
    await sql.execute("INSERT INTO tenants (id, slug, name) VALUES ($1, 'acme', 'Acme')", ACME)
    await sql.execute("INSERT INTO tenant_limits (tenant_id, rpm) VALUES ($1, 60)", ACME)
    for key in (ONE, TWO):
        await add_key(sql, key)
    await sql.execute("INSERT INTO key_limits (key_id, rpm) VALUES ($1, 6)", ONE)
    await sql.execute("INSERT INTO model_grants (tenant_id, pattern) VALUES ($1, 'qwen3:*')", ACME)
    await sql.execute("INSERT INTO model_grants (key_id, pattern) VALUES ($1, 'qwen3:8b')", ONE)


async def add_key(sql: asyncpg.Connection, key: UUID) -> None:
    """Add a key of the tenant ACME, bound to networks and expiring tomorrow."""
    await sql.execute(
        "INSERT INTO api_keys (id, tenant_id, name, role, prefix, digest, pepper_id, expires_at, path_allowed,"
        " allowed_networks) VALUES ($1, $2, 'a key', 'inference', $3::text,"
        " sha256(convert_to($3::text, 'UTF8')), 'p1', now() + interval '1 day', true, '{10.0.0.0/8}')",
        key,
        ACME,
        f"nng_{next(_numbers):08}",
    )
