"""Discovery against real sockets and a real Redis; the time of day is the test's own."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from pydantic import SecretStr
from redis.asyncio import Redis
from structlog.testing import capture_logs

from db.redis.connection import connect_patient
from db.redis.model_table_read import ModelTableReader
from db.redis.model_table_write import ModelTableWriter
from domain.backends import BackendSpec
from domain.model_table import BackendCondition, BackendState, ModelTable
from tests.support.scripted_backend import ScriptedBackend, answer, closed_port, scripted_backend, tags
from worker.jobs.discovery import Discovery

OK, STALE, SILENT, UNKNOWN = (
    BackendCondition.OK,
    BackendCondition.STALE,
    BackendCondition.SILENT,
    BackendCondition.UNKNOWN,
)
STALE_S = 120


class Clock:
    """A time of day that moves when it is told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class World:
    """What each test needs: a clock, a Redis and a way to poll."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.clock = Clock()
        self.reader = ModelTableReader(redis)
        self.writer = ModelTableWriter(redis)
        self.drained: frozenset[str] | Exception = frozenset()

    async def read_drained(self) -> frozenset[str]:
        """Stand for Postgres, which may be out of reach."""
        if isinstance(self.drained, Exception):
            raise self.drained
        return self.drained

    def discovery(
        self, *backends: tuple[str, str], timeout_s: float = 5.0, min_gap_s: float = 0.0, **fields: object
    ) -> Discovery:
        return Discovery(
            tuple(
                BackendSpec.model_validate({"name": name, "base_url": url, **fields})
                for name, url in backends
            ),
            reader=self.reader,
            writer=self.writer,
            timeout_s=timeout_s,
            stale_s=STALE_S,
            drained=self.read_drained,
            min_gap_s=min_gap_s,
            clock=self.clock,
        )

    async def table(self) -> ModelTable:
        table = await self.reader.read_table()
        assert table is not None
        return table

    async def state(self, name: str = "a") -> BackendState:
        return next(state for state in (await self.table()).backends if state.name == name)


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    async with connect_patient(SecretStr(redis_url)) as redis:
        yield World(redis)


@pytest.fixture
async def a() -> AsyncIterator[ScriptedBackend]:
    async with scripted_backend() as backend:
        yield backend


@pytest.fixture
async def b() -> AsyncIterator[ScriptedBackend]:
    async with scripted_backend() as backend:
        yield backend


def fails(backend: ScriptedBackend) -> None:
    backend.scripts["/api/tags"] = answer({"error": "x"}, status=500)


def recovers(backend: ScriptedBackend) -> None:
    backend.scripts["/api/tags"] = tags("llama3.2")


async def test_a_good_backend_is_in_the_table_with_all_it_says(world: World, a: ScriptedBackend) -> None:
    async with world.discovery(("a", a.url)) as discovery:
        await discovery.poll()

    state = await world.state()
    assert state.condition is OK
    assert state.version == "0.33.0"
    assert [model.name for model in state.models] == ["llama3.2:latest"]
    assert state.loaded == ("llama3.2:latest",)
    assert (state.last_ok_at, state.polled_at, state.error) == (world.clock.now, world.clock.now, None)


async def test_the_table_keeps_the_operators_order(
    world: World, a: ScriptedBackend, b: ScriptedBackend
) -> None:
    async with world.discovery(("z", a.url), ("m", b.url), ("a", a.url)) as discovery:
        await discovery.poll()

    assert [state.name for state in (await world.table()).backends] == ["z", "m", "a"]


async def test_a_failing_backend_goes_stale_then_silent_then_is_ok_at_once(
    world: World, a: ScriptedBackend
) -> None:
    async with world.discovery(("a", a.url)) as discovery:
        await discovery.poll()
        answered_at = world.clock.now
        seen = []
        fails(a)
        for seconds in (15, STALE_S - 15, 1):
            world.clock.advance(seconds)
            await discovery.poll()
            seen.append(await world.state())
        recovers(a)
        world.clock.advance(15)
        await discovery.poll()

    assert [state.condition for state in seen] == [STALE, STALE, SILENT]
    assert {state.last_ok_at for state in seen} == {answered_at}
    assert {state.error for state in seen} == {"http_500"}
    assert all(state.models for state in seen)
    assert (await world.state()).condition is OK
    assert (await world.state()).last_ok_at == world.clock.now


async def test_a_backend_that_never_answered_is_unknown(world: World) -> None:
    async with closed_port() as port, world.discovery(("a", f"http://127.0.0.1:{port}")) as discovery:
        await discovery.poll()
        world.clock.advance(STALE_S * 2)
        await discovery.poll()

    state = await world.state()
    assert state.condition is UNKNOWN
    assert state.error == "connect_refused"
    assert state.models == ()


async def test_a_hanging_backend_delays_nobody(world: World, a: ScriptedBackend, b: ScriptedBackend) -> None:
    a.scripts["/api/version"] = None
    async with (
        world.discovery(("a", a.url), ("b", b.url), timeout_s=60) as discovery,
        world.reader.changes() as changes,
    ):
        await anext(changes)
        poll = asyncio.create_task(discovery.poll())
        async with asyncio.timeout(10):
            await anext(changes)

        assert not poll.done()
        assert (await world.state("b")).condition is OK
        assert (await world.state("a")).condition is UNKNOWN
        poll.cancel()


async def test_the_answer_of_a_slow_backend_follows(
    world: World, a: ScriptedBackend, b: ScriptedBackend
) -> None:
    a.scripts["/api/version"] = None
    async with world.discovery(("a", a.url), ("b", b.url), timeout_s=0.6) as discovery:
        await discovery.poll()

    assert (await world.state("a")).error == "timeout"
    assert (await world.state("b")).condition is OK


async def test_models_survive_a_worker_that_is_replaced(world: World, a: ScriptedBackend) -> None:
    async with world.discovery(("a", a.url)) as first:
        await first.poll()
    fails(a)
    world.clock.advance(15)

    async with world.discovery(("a", a.url)) as second:
        await second.poll()

    assert (await world.state()).condition is STALE
    assert [model.name for model in (await world.state()).models] == ["llama3.2:latest"]


async def test_models_survive_a_redis_that_lost_its_data(world: World, a: ScriptedBackend) -> None:
    async with world.discovery(("a", a.url)) as discovery:
        await discovery.poll()
        fails(a)
        await world.redis.flushdb()
        world.clock.advance(15)
        await discovery.poll()

    assert (await world.state()).condition is STALE
    assert [model.name for model in (await world.state()).models] == ["llama3.2:latest"]


async def test_a_backend_that_left_the_settings_leaves_the_table(
    world: World, a: ScriptedBackend, b: ScriptedBackend
) -> None:
    async with world.discovery(("a", a.url), ("b", b.url)) as before:
        await before.poll()
    world.clock.advance(15)

    async with world.discovery(("b", b.url)) as after:
        await after.poll()

    assert [state.name for state in (await world.table()).backends] == ["b"]


async def test_a_backend_that_moved_does_not_inherit_models(world: World, a: ScriptedBackend) -> None:
    async with world.discovery(("a", a.url)) as before:
        await before.poll()
    world.clock.advance(15)

    async with closed_port() as port, world.discovery(("a", f"http://127.0.0.1:{port}")) as after:
        await after.poll()

    assert (await world.state()).condition is UNKNOWN
    assert (await world.state()).models == ()


async def test_two_workers_polling_at_once_both_succeed(
    world: World, a: ScriptedBackend, b: ScriptedBackend
) -> None:
    backends = (("a", a.url), ("b", b.url))
    async with world.discovery(*backends) as first, world.discovery(*backends) as second:
        for _ in range(5):
            await asyncio.gather(first.poll(), second.poll())

            assert [state.condition for state in (await world.table()).backends] == [OK, OK]
            world.clock.advance(1)


async def test_a_table_written_meanwhile_does_not_cost_what_this_poll_learned(
    world: World, a: ScriptedBackend, b: ScriptedBackend
) -> None:
    b.scripts["/api/version"] = None
    async with (
        world.discovery(("a", a.url), ("b", b.url), timeout_s=1) as discovery,
        world.reader.changes() as changes,
    ):
        await anext(changes)
        poll = asyncio.create_task(discovery.poll())
        first = await anext(changes)
        table = await world.table()
        assert await world.writer.replace(table.backends, based_on=first, now=world.clock.now)
        await poll

    assert (await world.state("b")).error == "timeout"


async def test_a_drained_backend_is_polled_on_and_marked(
    world: World, a: ScriptedBackend, b: ScriptedBackend
) -> None:
    world.drained = frozenset({"a", "not configured"})
    async with world.discovery(("a", a.url), ("b", b.url)) as discovery:
        await discovery.poll()

    found = [(state.name, state.condition, state.drained) for state in (await world.table()).backends]
    assert found == [("a", OK, True), ("b", OK, False)]


async def test_while_postgres_is_away_what_was_drained_stays_drained_also_for_a_new_worker(
    world: World, a: ScriptedBackend
) -> None:
    world.drained = frozenset({"a"})
    async with world.discovery(("a", a.url)) as discovery:
        await discovery.poll()
    world.drained = OSError()
    with capture_logs() as logs:
        async with world.discovery(("a", a.url)) as another:
            await another.poll()
            await another.poll()

    assert (await world.state()).drained
    assert [log["event"] for log in logs if log["log_level"] == "warning"] == ["drains_unreadable"]


async def test_every_poll_makes_a_new_version(world: World, a: ScriptedBackend) -> None:
    async with world.discovery(("a", a.url)) as discovery:
        await discovery.poll()
        first = await world.table()
        await discovery.poll()

    assert (await world.table()).version > first.version


async def test_a_poll_keeps_its_distance_from_the_last_one(world: World, a: ScriptedBackend) -> None:
    async with world.discovery(("a", a.url), min_gap_s=0.3) as discovery:
        await discovery.poll()
        loop = asyncio.get_running_loop()
        before = loop.time()
        await discovery.poll()

    assert loop.time() - before >= 0.3


async def test_a_foreign_value_in_redis_is_replaced(world: World, a: ScriptedBackend) -> None:
    await world.redis.set("nng:models", b"junk")
    async with world.discovery(("a", a.url)) as discovery:
        await discovery.poll()

    assert (await world.state()).condition is OK


async def test_a_change_of_state_is_logged_once(world: World, a: ScriptedBackend) -> None:
    async with world.discovery(("a", a.url)) as discovery:
        with capture_logs() as logs:
            await discovery.poll()
            fails(a)
            for _ in range(3):
                world.clock.advance(15)
                await discovery.poll()
            recovers(a)
            await discovery.poll()
            await discovery.poll()

    changes = [
        (log["was"], log["now"], log["error"]) for log in logs if log["event"] == "backend_state_changed"
    ]
    assert changes == [("unknown", "ok", None), ("ok", "stale", "http_500"), ("stale", "ok", None)]


async def test_a_model_that_differs_between_backends_is_reported_once(
    world: World, a: ScriptedBackend, b: ScriptedBackend
) -> None:
    a.scripts["/api/tags"] = tags("same", digest="aa")
    b.scripts["/api/tags"] = tags("same", digest="bb")
    async with world.discovery(("a", a.url), ("b", b.url)) as discovery:
        with capture_logs() as logs:
            await discovery.poll()
            await discovery.poll()

    warnings = [log for log in logs if log["event"] == "model_differs_between_backends"]
    assert [(log["model"], log["backends"]) for log in warnings] == [("same:latest", ("a", "b"))]


async def test_no_token_reaches_the_table_or_the_log(world: World, a: ScriptedBackend) -> None:
    async with world.discovery(("a", a.url), auth_token="hunter2") as discovery:
        with capture_logs() as logs:
            fails(a)
            await discovery.poll()

    stored = await world.redis.get("nng:models")
    assert isinstance(stored, bytes)
    assert b"hunter2" not in stored
    assert "hunter2" not in str(logs)


def test_logging_is_captured_because_no_logger_is_cached() -> None:
    assert not structlog.get_config()["cache_logger_on_first_use"]
