"""What operators decide about backends reaches the model table at once, whoever else writes it."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from pydantic import SecretStr
from saq.job import Status
from sqlalchemy.ext.asyncio import AsyncEngine

from db.backend_states import CHANNEL, DrainedBackends
from db.postgres import Database
from db.redis.connection import connect_patient
from db.redis.model_table_read import ModelTableReader
from db.redis.model_table_write import ModelTableWriter
from db.redis.queue import GatewayQueue
from db.tasks import end
from domain.jobs import DRAINS_FOLD
from domain.model_table import ModelTable
from domain.tenants import Actor
from tests.support.tables import WRITTEN_AT, backend, hosted
from worker.jobs.drains import fold
from worker.listener import Listener

PATIENCE_S = 10


class World:
    """A table of two backends in Redis, and what operators say in Postgres."""

    def __init__(self, engine: AsyncEngine, redis_url: str) -> None:
        self.redis = connect_patient(SecretStr(redis_url))
        self.reader = ModelTableReader(self.redis)
        self.writer = ModelTableWriter(self.redis)
        self.queue = GatewayQueue(self.redis)
        self.read = DrainedBackends(engine).names
        self._database = Database(engine)

    async def write_table(self, *, based_on: int = 0) -> ModelTable:
        written = await self.writer.replace(
            (backend("a", hosted()), backend("b", hosted())), based_on=based_on, now=WRITTEN_AT
        )
        assert written is not None
        return written

    async def drain(self, name: str) -> None:
        async with self._database.unit_of_work(Actor("test")) as work:
            await work.backends.drain(name, "a new card")

    async def undrain(self, name: str) -> None:
        async with self._database.unit_of_work(Actor("test")) as work:
            await work.backends.undrain(name)

    async def fold(self) -> bool:
        return await fold(self.read, reader=self.reader, writer=self.writer)

    async def drained(self) -> list[str]:
        table = await self.reader.read_table()
        assert table is not None
        return [state.name for state in table.backends if state.drained]


@pytest.fixture
async def world(engine: AsyncEngine, redis_url: str) -> AsyncIterator[World]:
    world = World(engine, redis_url)
    yield world
    await world.queue.disconnect()
    await world.redis.aclose()


async def test_a_drain_and_its_end_are_folded_in(world: World) -> None:
    await world.write_table()
    seen = []
    for decide in (world.drain, world.undrain):
        await decide("b")
        assert await world.fold()
        seen.append(await world.drained())

    assert seen == [["b"], []]


async def test_a_fold_keeps_the_age_of_what_backends_said(world: World) -> None:
    before = await world.write_table()
    await world.drain("a")
    await world.fold()

    after = await world.reader.read_table()
    assert after is not None
    assert after.written_at == before.written_at
    assert after.version > before.version


async def test_without_anything_to_change_the_table_stays(world: World) -> None:
    await world.drain("a")
    assert not await world.fold()
    before = await world.write_table()
    await world.undrain("a")

    assert not await world.fold()
    assert await world.reader.read_version() == before.version


async def test_a_table_replaced_meanwhile_is_folded_as_well(world: World) -> None:
    first = await world.write_table()
    await world.drain("a")
    replaced = False

    async def read_late() -> frozenset[str]:
        nonlocal replaced
        if not replaced:
            replaced = True
            await world.write_table(based_on=first.version)
        return await world.read()

    assert await fold(read_late, reader=world.reader, writer=world.writer)
    assert await world.drained() == ["a"]


async def test_two_folds_at_once_agree(world: World) -> None:
    await world.write_table()
    await world.drain("a")

    assert sorted(await asyncio.gather(world.fold(), world.fold())) in ([False, True], [True, True])
    assert await world.drained() == ["a"]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO backend_states VALUES ('b', true, 'by hand', 'psql')",
        "UPDATE backend_states SET drained = false",
        "DELETE FROM backend_states",
        "TRUNCATE backend_states",
    ],
)
async def test_whoever_writes_wakes_the_worker(world: World, database_url: str, statement: str) -> None:
    await world.drain("a")
    task = asyncio.create_task(Listener(database_url, world.queue, channel=CHANNEL, order=DRAINS_FOLD).run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            # The first order is the new connection's own.
            await _carried_out(world.queue)
            connection = await asyncpg.connect(database_url)
            await connection.execute(statement)
            await connection.close()

            await _carried_out(world.queue)
    finally:
        await end(task)


async def _carried_out(queue: GatewayQueue) -> None:
    job = None
    while job is None:
        job = await queue.dequeue(timeout=1)
    assert job.function == DRAINS_FOLD.name
    await job.finish(Status.COMPLETE)
