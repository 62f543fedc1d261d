"""The admin surface when it is off, and when what stands behind it is away."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NoReturn

import pytest
from litestar.types import ASGIApp
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from app.admin.administration import Administration
from app.admin.fleet import Fleet
from app.admin.logins import Caller
from app.admin.problems import KINDS, TYPE_PREFIX
from app.admin.surface import admin_service
from app.gateway.body import Bodies
from app.gateway.catalogue import Catalogue
from app.gateway.cooldown import Cooldown
from app.main import create_app
from app.settings import load_app_settings
from db.postgres import Database, create_engine
from db.redis.connection import connect_hot
from db.redis.model_table_read import ModelTableReader
from db.redis.queue import GatewayQueue
from domain.keys import PepperRing, mint_pepper
from domain.tenants import Actor
from domain.values import Role
from tests.support.asgi import Answer, Inbox, Outbox, ask, scope
from tests.support.principals import principal
from tests.support.repository import text_of

ENVIRON = {
    "DATABASE_URL": "postgresql://u:p@127.0.0.1:1/none",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "GATEWAY_KEY_PEPPER": mint_pepper("p1"),
    "GATEWAY_JOURNAL_DIR": str(Path("/nonexistent/journal")),
}


@pytest.mark.parametrize(
    "path", [b"/admin/v1/me", b"/admin/v1/tenants", b"/admin/v1/", b"/admin/x", b"/admin/"]
)
async def test_a_process_without_the_surface_has_nothing_there(path: bytes) -> None:
    app = create_app(load_app_settings(ENVIRON | {"GATEWAY_SURFACES": "tenant,ops"}))

    answer = await ask(app, "GET", path, [(b"authorization", b"Bearer x")])

    assert (answer.status, answer.header(b"content-type")) == (404, b"application/problem+json")
    assert answer.json()["type"] == TYPE_PREFIX + "not-found"


class Rooms:
    """The handlers behind the door, with stores of the test's choice, and a caller who has passed it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def get(self, path: str) -> Answer:
        outbox = Outbox()
        asked: dict[str, Any] = scope("GET", path.encode())
        asked["user"] = Caller(principal(role=Role.ADMIN), Actor("nnga_abcdefgh", uuid7()))
        await self._app(asked, Inbox(), outbox)  # type: ignore[arg-type] # a scope is a dictionary
        return outbox.answer()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


def rooms(engine: AsyncEngine, stack: AsyncExitStack) -> Rooms:
    """Build the handlers over a database, without Redis."""
    redis = connect_hot(SecretStr("redis://127.0.0.1:1/0"), timeout_ms=500)
    stack.push_async_callback(redis.aclose)
    stack.push_async_callback(engine.dispose)
    catalogue = Catalogue(reader=ModelTableReader(redis), config_digests={}, cooldown=Cooldown())
    administration = Administration(
        database=Database(engine),
        redis=redis,
        queue=GatewayQueue(redis),
        settings=load_app_settings(ENVIRON),
        logins=None,  # type: ignore[arg-type] # the door's affair
        bodies=Bodies(max_bytes=1, base_timeout_s=1, max_buffered_bytes=1),
        peppers=PepperRing.parse(mint_pepper("p1")),
        fleet=Fleet((), catalogue=catalogue, redis=redis),
        reports=engine,
        followers=(),
    )
    return Rooms(admin_service(lambda: administration))


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/me",
            "/tenants",
            "/tenants/x",
            "/tenants/x/keys",
            "/admin-keys",
            "/keys",
            "/audit",
            "/revocations/lag",
        ),
        *("/backends", "/usage/rows", "/usage/sums", "/usage/export"),
    ],
)
async def test_without_postgres_one_is_told_to_come_back(stack: AsyncExitStack, path: str) -> None:
    nobody = create_engine(ENVIRON["DATABASE_URL"], application_name="test")

    with capture_logs() as logs:
        answer = await rooms(nobody, stack).get(f"/admin/v1{path}")

    assert (answer.status, answer.header(b"retry-after")) == (503, b"5")
    assert answer.json()["type"] == TYPE_PREFIX + "unavailable"
    assert b"127.0.0.1" not in answer.body
    assert [log["event"] for log in logs] == ["admin_request_unavailable"]


async def test_without_redis_the_lag_says_so(engine: AsyncEngine, stack: AsyncExitStack) -> None:
    answer = await rooms(engine, stack).get("/admin/v1/revocations/lag")

    assert answer.json() == {"newest": 0, "redisReachable": False, "epoch": None, "processes": []}


async def test_without_redis_jobs_and_backends_say_so(engine: AsyncEngine, stack: AsyncExitStack) -> None:
    jobs = await rooms(engine, stack).get("/admin/v1/jobs")
    backends = await rooms(engine, stack).get("/admin/v1/backends")

    assert (jobs.status, jobs.json()["redisReachable"], jobs.json()["jobs"]) == (200, False, [])
    assert (backends.status, backends.json()["processes"]) == (200, None)


@pytest.mark.parametrize(
    "path",
    [
        *("queues/api/jobs", "queues/api/queues", "queues/api/queues/gateway/jobs/usage.prune"),
        "v1/jobs/usage.prune",
    ],
)
async def test_without_redis_the_dashboard_and_a_single_job_say_so(
    engine: AsyncEngine, stack: AsyncExitStack, path: str
) -> None:
    with capture_logs():
        answer = await rooms(engine, stack).get(f"/admin/{path}")

    assert (answer.status, answer.header(b"retry-after")) == (503, b"5")
    assert "Redis" in answer.json()["detail"]


async def test_a_fault_of_ours_tells_nothing() -> None:
    def broken() -> NoReturn:
        raise LookupError("canary")

    with capture_logs() as logs:
        answer = await Rooms(admin_service(broken)).get("/admin/v1/tenants")

    assert answer.json()["type"] == TYPE_PREFIX + "internal"
    assert answer.status == 500
    assert b"canary" not in answer.body
    assert [log["event"] for log in logs] == ["request_failed"]


def test_every_kind_of_problem_is_documented() -> None:
    page = text_of("docs/admin-api.md")

    assert [kind.name for kind in KINDS if f"`{kind.name}` | {kind.status} |" not in page] == []
