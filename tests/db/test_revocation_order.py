"""What followers of the revocations rely on: who hears what, in which order, and that writers get through."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import anyio
import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from db.revocations import Revocations
from tests.support.counts import count
from tests.support.rows import ACME, ONE, TWO, add_acme, add_key

WRITERS = 8
ROUNDS = count(suite=10, soak=200)


@pytest.fixture(autouse=True)
async def acme(sql: asyncpg.Connection) -> None:
    await add_acme(sql)


@asynccontextmanager
async def heard(url: str) -> AsyncIterator[Callable[[], list[str]]]:
    """Listen on the channel; the call returns the payloads so far."""
    payloads: list[str] = []
    listener = await asyncpg.connect(url)
    await listener.add_listener("key_revoked", lambda *call: payloads.append(str(call[-1])))
    try:
        yield lambda: payloads
        # Whatever was sent before this statement arrives before its answer.
        await listener.execute("SELECT 1")
    finally:
        await listener.close()


async def test_a_listener_hears_the_highest_number_only(sql: asyncpg.Connection, database_url: str) -> None:
    async with heard(database_url) as payloads:
        await sql.execute("UPDATE api_keys SET status = 'revoked'")

    assert payloads() == [str(await sql.fetchval("SELECT max(seq) FROM revocations"))]


async def test_nobody_hears_what_was_rolled_back(sql: asyncpg.Connection, database_url: str) -> None:
    async with heard(database_url) as payloads:
        transaction = sql.transaction()
        await transaction.start()
        await sql.execute("UPDATE api_keys SET status = 'revoked'")
        await transaction.rollback()

    assert payloads() == []


async def test_the_order_of_seq_is_the_order_of_commit(
    sql: asyncpg.Connection, database_url: str, engine: AsyncEngine
) -> None:
    """A reader that has seen a number never meets a smaller one afterwards, and none is left out."""
    keys = [UUID(int=number) for number in range(100, 100 + WRITERS)]
    for key in keys:
        await add_key(sql, key)
    first = await sql.fetchval("SELECT max(seq) FROM revocations")
    seen: list[int] = []
    writing = WRITERS

    async def write(key: UUID) -> None:
        nonlocal writing
        connection = await asyncpg.connect(database_url)
        for number in range(ROUNDS):
            async with connection.transaction():
                await connection.execute(
                    "UPDATE api_keys SET path_allowed = NOT path_allowed WHERE id = $1", key
                )
                await connection.execute(
                    "UPDATE tenant_limits SET rpm = $1", 1000 + number + key.int * ROUNDS
                )
        await connection.close()
        writing -= 1

    async def read() -> None:
        revocations = Revocations(engine)
        while True:
            last = writing == 0
            seen.extend(row.seq for row in await revocations.since(seen[-1] if seen else first, 1000))
            if last:
                return

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            for key in keys:
                tasks.start_soon(write, key)

    assert seen == list(range(first + 1, first + 1 + 2 * WRITERS * ROUNDS))


async def test_two_writers_in_opposite_order_do_not_deadlock(
    sql: asyncpg.Connection, database_url: str
) -> None:
    async def write(statements: list[str]) -> None:
        connection = await asyncpg.connect(database_url)
        for _ in range(ROUNDS):
            async with connection.transaction():
                for statement in statements:
                    await connection.execute(statement)
        await connection.close()

    statements = [
        f"UPDATE api_keys SET path_allowed = NOT path_allowed WHERE id = '{ONE}'",
        f"UPDATE api_keys SET path_allowed = NOT path_allowed WHERE id = '{TWO}'",
        "UPDATE tenants SET time_zone = time_zone || 'x'",
        f"INSERT INTO model_grants (tenant_id, pattern) SELECT '{ACME}', gen_random_uuid()::text",
    ]
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write, statements)
            tasks.start_soon(write, statements[::-1])

    assert await sql.fetchval("SELECT count(*) FROM model_grants") == 2 + 2 * ROUNDS
