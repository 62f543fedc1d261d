"""Keys before the path: one spelling of what follows, the tenant surface alone, and nothing that remembers them."""

import io

import msgspec
import pytest
from litestar.types import Receive, Scope, Send

from app.gateway.access_log import AccessLog
from app.gateway.downstream import JSON
from app.gateway.endpoint import Endpoint, PublicRoute, Visit
from app.gateway.lingering import Lingering
from app.gateway.path_keys import PathKeys
from app.metrics import Metrics
from app.refusals import Refusals
from domain.values import ApiFamily
from tests.support.asgi import Answer, ask

KEY = "nng_canary00_canarycanarycanarycanarycanary_canary"


class World:
    """Two endpoints that tell the key they got, in front of something that is never reached with one."""

    def __init__(self) -> None:
        self.log = io.StringIO()
        self.metrics = Metrics()
        self._access_log = AccessLog("json", self.log)
        self.passed: list[bytes] = []

        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            self.passed.append(scope["raw_path"])
            assert (await receive())["type"] == "http.request"
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        self.app = PathKeys(
            inner,
            endpoints={"/": self._endpoint("/"), "/api/tags": self._endpoint("/api/tags")},
            below={"/v1/models/": self._endpoint("/v1/models/{model_id:path}", prefix=b"/v1/models/")},
            refusals=Refusals(self.metrics, self._access_log),
        )

    def _endpoint(self, template: str, *, prefix: bytes | None = None) -> Endpoint:
        async def tell(visit: Visit) -> None:
            key = visit.call.key()
            assert (await visit.receive())["type"] == "http.request"
            said = msgspec.json.encode({"key": key.decode(), "path": visit.call.raw_path.decode()})
            await visit.downstream.answer(200, JSON, said)

        route = PublicRoute(template, ApiFamily.NATIVE, {"GET": tell}, prefix)
        return Endpoint(route, metrics=self.metrics, access_log=self._access_log, lingering=Lingering())

    async def ask(self, path: str, *headers: tuple[bytes, bytes], method: str = "GET") -> Answer:
        return await ask(self.app, method, path.encode("latin-1"), headers)

    def remembered(self) -> str:
        """Everything that the log and the metrics hold."""
        self._access_log.flush()
        self.metrics.flush()
        samples = [str(sample) for family in self.metrics.requests.collect() for sample in family.samples]
        return self.log.getvalue() + "".join(samples)


@pytest.mark.parametrize("path", ["/", "/api/tags", "/v1/models/ns/m", "/v1/models/ns%2Fm%3A1"])
async def test_the_key_before_the_path_is_the_key(path: str) -> None:
    answer = await World().ask(f"/k/{KEY}{path}")

    assert answer.json() == {"key": KEY, "path": path}


async def test_the_same_key_in_a_header_too_is_fine_and_another_is_not() -> None:
    world = World()

    assert (await world.ask(f"/k/{KEY}/api/tags", (b"x-api-key", KEY.encode()))).status == 200
    assert (await world.ask(f"/k/{KEY}/api/tags", (b"x-api-key", b"another"))).status == 401


@pytest.mark.parametrize(
    "path",
    [
        "/k/", f"/k/{KEY}", "/k//api/tags", f"/k/{KEY}//api/tags", f"/k/{KEY}/api/tags/", f"/k/{KEY}/api//tags",
        f"/k/{KEY}/./api/tags", f"/k/{KEY}/x/../api/tags", f"/k/{KEY}/api/%74ags", f"/k/{KEY}%2Fapi/tags",
        f"/k/{KEY}/api%2ftags", f"/k/{KEY}/API/TAGS", f"/k/{KEY}/v1/models/../../api/tags", f"/k/{KEY}/v1//models/x",
        f"/k/{KEY}/metrics", f"/k/{KEY}/healthz", f"/k/{KEY}/admin/v1/keys", f"/k/{KEY}/k/{KEY}/api/tags",
        f"/k/{KEY}/api/tags\xff",
    ],
)  # fmt: skip
async def test_what_follows_the_key_has_one_spelling_and_is_the_tenant_surface(path: str) -> None:
    world = World()
    answer = await world.ask(path)

    assert (answer.status, world.passed) == (404, [])
    assert KEY not in answer.body.decode()
    assert "canary" not in world.remembered()


async def test_an_unknown_path_is_refused_in_the_shape_of_what_follows_the_key() -> None:
    world = World()
    native, openai = [await world.ask(f"/k/{KEY}{path}") for path in ("/api/nothing", "/v1/nothing")]

    assert isinstance(native.json()["error"], str)
    assert openai.json()["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(
    "path", ["/api/tags", "/k", "/K/x/api/tags", "//k/x/api/tags", "/kk/x", "/%6b/x/api/tags"]
)
async def test_everything_else_passes(path: str) -> None:
    world = World()
    expected = [] if path == "/%6b/x/api/tags" else [path.encode()]

    await world.ask(path)

    assert world.passed == expected


@pytest.mark.parametrize("path", ["/api/tags", "/v1/models/x", "/nothing"])
async def test_neither_the_log_nor_the_metrics_know_the_key(path: str) -> None:
    world = World()
    await world.ask(f"/k/{KEY}{path}")
    await world.ask(f"/k/{KEY}{path}", method="POST")

    assert world.remembered()
    assert "canary" not in world.remembered()
