"""The model table as this process uses it: followed, kept while Redis is away, checked against the settings."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from app.gateway.catalogue import Catalogue
from app.gateway.cooldown import Cooldown
from domain.errors import Unavailable
from domain.model_table import BackendCondition, ModelTable
from domain.route import ModelIndex
from tests.support.clock import Clock
from tests.support.tables import backend, config_digests, hosted, table
from tests.support.waiting import until


class Reader:
    """The table in Redis, as a test writes it."""

    def __init__(self) -> None:
        self.table: ModelTable | None = None
        self.fails: Exception | None = None
        self.deaf: Exception | None = None
        self.tables_read = 0
        self.asked = 0
        self.announcements: asyncio.Queue[None] = asyncio.Queue()

    async def read_version(self) -> int | None:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        return None if self.table is None else self.table.version

    async def read_table(self) -> ModelTable | None:
        self.tables_read += 1
        if self.fails is not None:
            raise self.fails
        return self.table

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[AsyncIterator[object]]:
        if self.deaf is not None:
            raise self.deaf
        yield self._announced()

    async def _announced(self) -> AsyncIterator[object]:
        while True:
            await self.announcements.get()
            if self.deaf is not None:
                raise self.deaf
            yield None


class World:
    """A catalogue of a process configured with the backends a and b."""

    def __init__(self) -> None:
        self.reader = Reader()
        self.clock = Clock()
        self.cooldown = Cooldown(self.clock, self.clock.today)
        self.seen: list[ModelIndex] = []
        self.catalogue = Catalogue(
            reader=self.reader,
            config_digests=config_digests("a", "b"),
            cooldown=self.cooldown,
            on_table=self.seen.append,
        )

    def write(self, *names: str, version: int, condition: BackendCondition = BackendCondition.OK) -> None:
        states = (
            backend(name, hosted("m:1"), condition=condition, last_ok_at=self.clock.today()) for name in names
        )
        self.reader.table = table(*states, version=version)

    def hosts(self) -> list[str]:
        return [candidate.backend for candidate in self.catalogue.index.candidates("m:1")]


@pytest.fixture
def world() -> World:
    return World()


async def test_before_a_table_is_read_nobody_hosts_anything(world: World) -> None:
    await world.catalogue.refresh()

    assert not world.catalogue.has_table
    assert world.hosts() == []
    with pytest.raises(Unavailable):
        world.catalogue.known()
    assert world.reader.tables_read == 0


async def test_a_table_is_read_when_its_version_differs(world: World) -> None:
    world.write("a", version=7)
    await world.catalogue.refresh()
    await world.catalogue.refresh()
    assert (world.hosts(), world.reader.tables_read) == (["a"], 1)

    world.write("b", "a", version=8)
    await world.catalogue.refresh()

    assert (world.hosts(), world.reader.tables_read) == (["b", "a"], 2)
    assert world.catalogue.has_table
    assert world.catalogue.known() is world.catalogue.index
    assert [index.table.version for index in world.seen] == [7, 8]


async def test_an_older_version_is_read_too(world: World) -> None:
    for version in (8, 7):
        world.write("a", version=version)
        await world.catalogue.refresh()

    assert world.catalogue.index.table.version == 7


async def test_f14_a_table_that_vanished_leaves_the_last_one_in_use(world: World) -> None:
    world.write("a", version=7)
    await world.catalogue.refresh()
    world.reader.table = None

    await world.catalogue.refresh()

    assert world.hosts() == ["a"]
    assert world.catalogue.has_table


async def test_f14_a_table_that_vanishes_while_it_is_read_leaves_the_last_one_in_use(world: World) -> None:
    world.write("a", version=7)
    await world.catalogue.refresh()

    class Vanishing(Reader):
        async def read_version(self) -> int:
            return 8

    catalogue = Catalogue(reader=Vanishing(), config_digests=config_digests("a"), cooldown=world.cooldown)
    catalogue.index = world.catalogue.index
    await catalogue.refresh()

    assert catalogue.index.table.version == 7


async def test_f11_while_redis_is_away_the_last_table_serves_on(world: World) -> None:
    world.write("a", version=7)
    await world.catalogue.refresh()
    redis_ok_at = world.catalogue.redis_ok_at
    world.reader.fails = OSError("away")

    with pytest.raises(OSError, match="away"):
        await world.catalogue.refresh()

    assert world.hosts() == ["a"]
    assert world.catalogue.redis_ok_at == redis_ok_at


async def test_backends_of_another_configuration_are_reported_once(world: World) -> None:
    with structlog.testing.capture_logs() as logs:
        for version in (1, 2):
            world.write("a", "stranger", version=version)
            await world.catalogue.refresh()

    assert [(line["event"], line["backends"]) for line in logs] == [
        ("model_table_names_other_backends", ("stranger",))
    ]
    assert world.hosts() == ["a"]


async def test_a_good_poll_ends_a_cooldown_and_a_failed_one_does_not(world: World) -> None:
    for name in "ab":
        world.cooldown.failed(name)
    world.clock.at += 1
    states = (
        backend("a", last_ok_at=world.clock.today()),
        backend("b", last_ok_at=world.clock.today(), condition=BackendCondition.STALE),
    )
    world.reader.table = table(*states)

    await world.catalogue.refresh()

    assert set(world.cooldown.cooling()) == {"b"}


async def test_the_age_is_that_of_the_worker_s_writing(world: World) -> None:
    written_at = datetime.now(UTC) - timedelta(seconds=90)
    world.reader.table = ModelTable(version=1, written_at=written_at)
    await world.catalogue.refresh()

    assert world.catalogue.age_s() == pytest.approx(90, abs=5)


async def test_a_change_is_heard_of_at_once(world: World) -> None:
    listening = asyncio.create_task(world.catalogue.listen())
    world.write("a", version=7)
    world.reader.announcements.put_nowait(None)

    await until(lambda: world.hosts() == ["a"], within_s=0.9)

    listening.cancel()
    await asyncio.wait([listening])


async def test_a_lost_message_is_made_up_for_within_a_second(world: World) -> None:
    following = asyncio.create_task(world.catalogue.follow())
    await until(lambda: world.catalogue.redis_ok_at > 0, within_s=5)
    world.write("a", version=7)

    await until(lambda: world.hosts() == ["a"], within_s=5)

    following.cancel()
    await asyncio.wait([following])


async def test_trouble_is_logged_once_and_so_is_its_end(world: World) -> None:
    world.reader.fails = OSError("away")
    with structlog.testing.capture_logs() as logs:
        following = asyncio.create_task(world.catalogue.follow())
        await until(lambda: world.reader.asked == 2, within_s=5)
        world.reader.fails = None
        await until(lambda: len(logs) == 2, within_s=5)
        following.cancel()
        await asyncio.wait([following])

    assert [(line["event"], line["step"]) for line in logs] == [
        ("model_table_unreadable", "read"),
        ("model_table_readable_again", "read"),
    ]


async def test_a_lost_subscription_does_not_flood_the_log(world: World) -> None:
    world.reader.deaf = OSError("no subscriptions")
    with structlog.testing.capture_logs() as logs:
        listening = asyncio.create_task(world.catalogue.listen())
        await until(lambda: bool(logs), within_s=5)
        for _ in range(5):
            await world.catalogue.refresh()
        listening.cancel()
        await asyncio.wait([listening])

    assert [(line["event"], line["step"]) for line in logs] == [("model_table_unreadable", "listen")]
