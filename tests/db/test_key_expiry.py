"""A key whose time has come is revoked in the caches: once, however often and wherever somebody looks."""

from uuid import UUID

import anyio
import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from db.key_expiry import announce_expired_keys
from tests.support.rows import ONE, TWO, add_acme

ADD_ADMIN_KEY = """
    INSERT INTO api_keys (id, name, role, prefix, digest, pepper_id, expires_at)
    VALUES ($1, 'k', 'admin', 'nnga_00000000', sha256('x'), 'p1', now())
"""


@pytest.fixture(autouse=True)
async def acme(sql: asyncpg.Connection) -> None:
    await add_acme(sql)


async def expire(sql: asyncpg.Connection, key: UUID) -> None:
    await sql.execute("UPDATE api_keys SET expires_at = now() WHERE id = $1", key)


async def noted(sql: asyncpg.Connection, since: int) -> list[tuple[str, UUID]]:
    rows = await sql.fetch("SELECT scope, id FROM revocations WHERE seq > $1 ORDER BY seq", since)
    return [(row["scope"], row["id"]) for row in rows]


async def newest(sql: asyncpg.Connection) -> int:
    return int(await sql.fetchval("SELECT max(seq) FROM revocations"))


async def test_an_expired_key_is_revoked_in_the_caches(sql: asyncpg.Connection, engine: AsyncEngine) -> None:
    await expire(sql, ONE)
    before = await newest(sql)

    assert await announce_expired_keys(engine) == (ONE,)
    assert await noted(sql, before) == [("key", ONE)]


async def test_nothing_else_about_it_changes(sql: asyncpg.Connection, engine: AsyncEngine) -> None:
    await expire(sql, ONE)
    before = dict(await sql.fetchrow("SELECT * FROM api_keys WHERE id = $1", ONE) or {})
    await announce_expired_keys(engine)
    after = dict(await sql.fetchrow("SELECT * FROM api_keys WHERE id = $1", ONE) or {})

    assert after == before | {"announced_expiry": before["expires_at"]}


async def test_looking_again_tells_nothing(sql: asyncpg.Connection, engine: AsyncEngine) -> None:
    await expire(sql, ONE)
    await announce_expired_keys(engine)
    before = await newest(sql)

    assert await announce_expired_keys(engine) == ()
    assert await newest(sql) == before


async def test_looking_in_several_places_at_once_tells_once(
    sql: asyncpg.Connection, engine: AsyncEngine
) -> None:
    await expire(sql, ONE)
    await expire(sql, TWO)
    before = await newest(sql)

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(announce_expired_keys, engine)

    assert await noted(sql, before) == [("key", ONE), ("key", TWO)]


async def test_a_key_given_more_time_is_told_again_when_that_is_over(
    sql: asyncpg.Connection, engine: AsyncEngine
) -> None:
    await expire(sql, ONE)
    await announce_expired_keys(engine)
    await sql.execute("UPDATE api_keys SET expires_at = now() + interval '1 hour' WHERE id = $1", ONE)
    assert await announce_expired_keys(engine) == ()
    await expire(sql, ONE)

    assert await announce_expired_keys(engine) == (ONE,)


@pytest.mark.parametrize("change", ["status = 'revoked', expires_at = now()", "expires_at = NULL"])
async def test_a_key_that_is_revoked_already_or_never_expires_is_left_alone(
    sql: asyncpg.Connection, engine: AsyncEngine, change: str
) -> None:
    await sql.execute(f"UPDATE api_keys SET {change}")

    assert await announce_expired_keys(engine) == ()


async def test_an_admin_key_expires_too(sql: asyncpg.Connection, engine: AsyncEngine) -> None:
    await sql.execute(ADD_ADMIN_KEY, UUID(int=7))

    assert await announce_expired_keys(engine) == (UUID(int=7),)
