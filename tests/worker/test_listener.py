"""The listener on a real Postgres: every commit leads to an order, also one that nobody heard."""

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr
from saq.job import Status
from structlog.testing import capture_logs

from db.redis.connection import connect_patient
from db.redis.queue import GatewayQueue
from db.tables import CHANNEL
from db.tasks import end
from domain.jobs import REVOCATION_FANOUT
from tests.support.rows import ONE, add_acme
from tests.support.waiting import until
from worker.listener import APPLICATION_NAME, RECONNECT_PAUSE_S, Listener

PATIENCE_S = 10
FLIP = "UPDATE api_keys SET path_allowed = NOT path_allowed WHERE id = $1"
LISTENERS = f"SELECT pid FROM pg_stat_activity WHERE application_name = '{APPLICATION_NAME}'"


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[GatewayQueue]:
    async with connect_patient(SecretStr(redis_url)) as redis:
        queue = GatewayQueue(redis)
        yield queue
        await queue.disconnect()


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    await add_acme(connection)
    yield connection
    await connection.close()


@pytest.fixture
async def listener(database_url: str, queue: GatewayQueue) -> AsyncIterator[Listener]:
    listener = listening(database_url, queue)
    task = asyncio.create_task(listener.run())
    yield listener
    await end(task)


def listening(database_url: str, queue: GatewayQueue) -> Listener:
    return Listener(database_url, queue, channel=CHANNEL, order=REVOCATION_FANOUT)


async def next_order(queue: GatewayQueue) -> None:
    """Return once a fanout is ordered, and carry it out."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            job = await queue.dequeue(timeout=1)
            if job is not None:
                assert job.function == REVOCATION_FANOUT.name
                await job.finish(Status.COMPLETE)
                return


@pytest.mark.usefixtures("listener", "sql")
async def test_a_connection_that_stands_orders_what_nobody_may_have_heard(queue: GatewayQueue) -> None:
    await next_order(queue)


@pytest.mark.usefixtures("listener")
async def test_a_commit_orders_a_fanout(queue: GatewayQueue, sql: asyncpg.Connection) -> None:
    await next_order(queue)

    await sql.execute(FLIP, ONE)

    await next_order(queue)


@pytest.mark.usefixtures("listener")
async def test_a_cut_connection_is_replaced_at_once_and_what_was_missed_is_ordered(
    queue: GatewayQueue, sql: asyncpg.Connection
) -> None:
    await next_order(queue)
    async with sql.transaction():
        await sql.execute(f"SELECT pg_terminate_backend(pid) FROM ({LISTENERS}) AS listeners")
        await sql.execute(FLIP, ONE)

    before = asyncio.get_running_loop().time()
    await next_order(queue)

    assert asyncio.get_running_loop().time() - before < RECONNECT_PAUSE_S


@pytest.mark.usefixtures("listener")
async def test_an_order_given_while_a_fanout_runs_is_carried_out_after_it(
    queue: GatewayQueue, sql: asyncpg.Connection
) -> None:
    async with asyncio.timeout(PATIENCE_S):
        running = None
        while running is None:
            running = await queue.dequeue(timeout=1)
        await sql.execute(FLIP, ONE)
        refused = await queue.order(REVOCATION_FANOUT)
        assert not refused

        await running.finish(Status.COMPLETE)

    await next_order(queue)


async def test_a_postgres_that_comes_late_is_found(
    database_url: str, queue: GatewayQueue, sql: asyncpg.Connection
) -> None:
    name = await sql.fetchval("SELECT current_database()")
    await sql.close()
    admin = await asyncpg.connect(database_url.rsplit("/", 1)[0] + "/postgres")
    await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    with capture_logs() as log:
        task = asyncio.create_task(listening(database_url, queue).run())
        await until(lambda: logged(log) == ["listener_disconnected"], within_s=PATIENCE_S)
    try:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')

        await next_order(queue)
    finally:
        await end(task)
        await admin.close()


async def test_without_redis_it_goes_on_listening(database_url: str, sql: asyncpg.Connection) -> None:
    nobody = connect_patient(SecretStr("redis://127.0.0.1:1/0"))
    queue = GatewayQueue(nobody)
    with capture_logs() as log:
        task = asyncio.create_task(listening(database_url, queue).run())
        try:
            await until(lambda: len(log) == 1, within_s=PATIENCE_S)
            await sql.execute(FLIP, ONE)
            await until(lambda: len(log) == 2, within_s=PATIENCE_S)
        finally:
            await end(task)
            await queue.disconnect()
            await nobody.aclose()

    assert logged(log) == ["heard_job_not_ordered"] * 2


def logged(log: list[MutableMapping[str, Any]]) -> list[str]:
    return [line["event"] for line in log]
