"""Live, ready: closed unless everything is there, and bare."""

import time
from collections.abc import Callable

import msgspec
import pytest
from litestar import Litestar

from app.health import STORE_CONFIRMED_WITHIN_S, Probes, Readiness, health_handlers
from tests.support.asgi import Answer, ask


class World:
    """A process whose stores a test can take away."""

    def __init__(self) -> None:
        self.postgres_seen = 0.0
        self.redis_seen = 0.0
        self.has_table = True
        self.draining = False
        self.probes = Probes()
        self.app = Litestar(health_handlers(self.probes), openapi_config=None, logging_config=None)

    def start(self) -> None:
        self.probes.readiness = Readiness(
            postgres_ok_at=lambda: time.monotonic() - self.postgres_seen,
            redis_ok_at=lambda: time.monotonic() - self.redis_seen,
            has_model_table=lambda: self.has_table,
            draining=lambda: self.draining,
        )

    async def ready(self, query: bytes = b"") -> bool:
        answer = await ask(self.app, "GET", b"/readyz", query=query)
        assert answer.status in {200, 503}
        return answer.status == 200


@pytest.fixture
def world() -> World:
    world = World()
    world.start()
    return world


def body(answer: Answer) -> object:
    return msgspec.json.decode(answer.body)


async def test_a_process_with_everything_is_ready(world: World) -> None:
    assert await world.ready()


async def test_a_process_that_has_not_started_is_live_and_not_ready() -> None:
    world = World()

    assert (await ask(world.app, "GET", b"/healthz")).status == 200
    assert not await world.ready()
    assert not await world.ready(b"exclude=redis")


AWAY = STORE_CONFIRMED_WITHIN_S + 1


def without_postgres(world: World) -> None:
    world.postgres_seen = AWAY


def without_redis(world: World) -> None:
    world.redis_seen = AWAY


def without_table(world: World) -> None:
    world.has_table = False


def while_draining(world: World) -> None:
    world.draining = True


def before_any_store_answered(world: World) -> None:
    world.postgres_seen = world.redis_seen = float("inf")


@pytest.mark.parametrize(
    ("trouble", "degraded"),
    [
        (without_postgres, False),
        (without_redis, True),
        (without_table, False),
        (while_draining, False),
        (before_any_store_answered, False),
    ],
)
async def test_readiness_fails_closed_and_redis_alone_may_be_excluded(
    world: World, trouble: Callable[[World], None], *, degraded: bool
) -> None:
    trouble(world)

    assert not await world.ready()
    assert await world.ready(b"exclude=redis") is degraded


@pytest.mark.parametrize(
    "query", [b"exclude=postgres", b"exclude=", b"exclude=REDIS", b"exclude=redis,postgres", b"x=1"]
)
async def test_nothing_else_can_be_excluded(world: World, query: bytes) -> None:
    without_redis(world)

    assert not await world.ready(query)


async def test_stores_that_answered_a_moment_ago_are_there(world: World) -> None:
    world.postgres_seen = world.redis_seen = STORE_CONFIRMED_WITHIN_S - 1

    assert await world.ready()


@pytest.mark.parametrize("trouble", [None, without_postgres, without_redis, while_draining])
async def test_t45_a_probe_tells_its_status_alone(
    world: World, trouble: Callable[[World], None] | None
) -> None:
    if trouble is not None:
        trouble(world)

    live = await ask(world.app, "GET", b"/healthz")
    ready = await ask(world.app, "GET", b"/readyz")

    assert (live.status, body(live)) == (200, {"status": "ok"})
    assert body(ready) == {"status": "ok" if trouble is None else "unavailable"}
    assert ready.status == (200 if trouble is None else 503)
