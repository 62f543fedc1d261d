import socket

import asyncpg
import pytest
import redis.asyncio

from tests.support.guard import OutsideConnection
from tests.support.servers import Databases


async def test_a_fresh_database_answers_over_its_url(empty_database_url: str) -> None:
    connection = await asyncpg.connect(empty_database_url)
    try:
        version = await connection.fetchval("SHOW server_version_num")
    finally:
        await connection.close()

    assert int(version) >= 180000


async def test_a_copy_has_the_tables_of_its_template(postgres: Databases) -> None:
    template = postgres.create()
    postgres.execute("CREATE TABLE mark (a int)", url=template)

    copy = postgres.create(template=template)

    assert postgres.execute("SELECT count(*) FROM mark", url=copy) == "0"


async def test_the_logical_database_is_empty(redis_url: str) -> None:
    async with redis.asyncio.from_url(redis_url) as client:
        assert await client.dbsize() == 0


def test_no_test_can_leave_the_machine() -> None:
    with socket.socket() as outside, pytest.raises(OutsideConnection):
        outside.connect(("192.0.2.1", 80))
