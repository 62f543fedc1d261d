"""One spelling per path, a request id on everything, and a trace of what nobody routes."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from litestar import Litestar, get
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, Receive, Scope, Send

from app.gateway.access_log import AccessLog
from app.gateway.downstream import TEXT, Downstream
from app.gateway.gate import Gate
from app.main import create_app
from app.metrics import Metrics
from app.refusals import NO_ROUTE, Refusals
from app.settings import load_app_settings
from domain.keys import mint_pepper
from tests.support.asgi import Answer, ask

NOTHING = "There is nothing at this path."


@pytest.fixture(scope="module")
def app() -> ASGIApp:
    """Build the application as granian gets it; its lifespan never starts, so nothing stands behind it."""
    environ = {
        "DATABASE_URL": "postgresql://u:p@127.0.0.1:1/none",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "GATEWAY_KEY_PEPPER": mint_pepper("p1"),
        "GATEWAY_METRICS_TOKEN": "of-the-tests",
        "GATEWAY_JOURNAL_DIR": str(Path("/nonexistent/journal")),
    }
    return create_app(load_app_settings(environ))


def refused(answer: Answer) -> None:
    assert answer.status == 404
    assert answer.header(b"content-type") in {b"application/json", b"application/json; charset=utf-8"}
    said = answer.json()["error"]
    assert (said if isinstance(said, str) else said["message"]) == NOTHING
    UUID((answer.header(b"x-request-id") or b"").decode())


SPELLINGS = [
    b"//{0}",
    b"///{0}",
    b"/{0}/",
    b"/{0}//",
    b"/./{0}",
    b"/../{0}",
    b"/{0}/.",
    b"/{0}/..",
    b"/x/../{0}",
    b"/{0}/../{0}",
    b"/%2e/{0}",
    b"/%2E%2E/{0}",
    b"/x/%2e%2e/{0}",
    b"/%2f{0}",
    b"/%2F{0}",
    b"%2f{0}",
    b"/{0}%2f",
    b"/{0}%2F",
    b"/{0}%2f%2e",
    b"/%5c{0}",
    b"/\\{0}",
    b"/{0}\\",
    b"/{0};",
    b"/{0};x=1",
    b"/;/{0}",
    b"/{0}%3b",
    b"/{0}%00",
    b"/%00{0}",
    b"/{0}%00.json",
    b"/{0}%20",
    b"/%20{0}",
    b"/{0}%09",
    b"/{0}%0a",
    b"/{0}%0d%0aX-A:b",
    b"/{0}%23",
    b"/{0}%3f",
    b"/{0}%3Fx=1",
    b"/{0}%c0%af",
    b"/%c0%ae/{0}",
    b"/{0}%ef%bc%8f",
    b"/{0}\xc3\xa9",
    b"/{0}\xff",
    b"/{0}.",
    b"/{0}..",
    b"/{0}.json",
    b"/{0}*",
    b"/{0}:",
    b"/{0}@x",
    b"{0}",
    b"http://evil/{0}",
]


def spellings(path: str) -> Iterator[bytes]:
    """Every wrong spelling of a path: those of the table, other cases, and each byte escaped."""
    plain = path.removeprefix("/").encode()
    for pattern in SPELLINGS:
        yield pattern.replace(b"{0}", plain)
    yield b"/" + plain.upper()
    yield b"/" + plain.title()
    for position, byte in enumerate(plain):
        if byte != ord("/"):
            yield b"/" + plain[:position] + b"%%%02x" % byte + plain[position + 1 :]
            yield b"/" + plain[:position] + b"%%%02X" % byte + plain[position + 1 :]
    yield (b"/" + plain).replace(b"/", b"%2f")
    yield b"/" + plain.replace(b"/", b"%2f") if b"/" in plain else b"/" + plain + b"%2f."


@pytest.mark.parametrize(
    "path",
    ["/healthz", "/readyz", "/metrics", "/api/tags", "/api/chat", "/api/pull", "/v1/models", "/v1/chat/completions"],
)  # fmt: skip
async def test_t22_only_the_canonical_spelling_of_a_path_exists(app: ASGIApp, path: str) -> None:
    wrong = list(spellings(path))
    assert len(wrong) > 60

    for raw_path in wrong:
        for method in ("GET", "POST"):
            refused(await ask(app, method, raw_path))


@pytest.mark.parametrize(
    "raw_path", [b"", b"*", b"//", b"/.", b"/..", b"/%2f", b"/%2e", b"/;", b"/%00", b"?"]
)
async def test_t22_the_root_has_one_spelling_too(app: ASGIApp, raw_path: bytes) -> None:
    refused(await ask(app, "GET", raw_path))


@pytest.mark.parametrize(
    "raw_path",
    [
        b"/v1/models/",
        b"/v1/models//x",
        b"/v1/models/x/",
        b"/v1/models/x//y",
        b"/v1/models/.",
        b"/v1/models/..",
        b"/v1/models/../models",
        b"/v1/models/x/../y",
        b"/v1/models/%2e%2e",
        b"/v1/models/%78",
        b"/v1/models/x%00",
        b"/v1/models/x%20y",
        b"/v1/models/x%25",
        b"/v1/models/x\xc3\xa9",
        b"/v1/models%2fx",
        b"/V1/models/x",
        b"/api/blobs/",
        b"/api/blobs/../tags",
        b"/api/blobs/%78",
    ],
)  # fmt: skip
async def test_t22_what_follows_a_prefix_is_refused_unless_plain(app: ASGIApp, raw_path: bytes) -> None:
    refused(await ask(app, "GET", raw_path))


async def test_the_root_answers_without_a_key(app: ASGIApp) -> None:
    answer = await ask(app, "GET", b"/")

    assert (answer.status, answer.body) == (200, b"Ollama is running")


async def test_head_gets_the_headers_alone(app: ASGIApp) -> None:
    answer = await ask(app, "HEAD", b"/")

    assert (answer.status, answer.header(b"content-length"), answer.body) == (200, b"17", b"")


@pytest.mark.parametrize(
    "raw_path", [b"/nothing", b"/api/nothing", b"/schema", b"/schema/openapi.json", b"/documentation"]
)
async def test_t37_an_unknown_path_is_404_without_asking_for_a_key(app: ASGIApp, raw_path: bytes) -> None:
    refused(await ask(app, "GET", raw_path))


async def test_an_unknown_openai_path_speaks_openais_shape(app: ASGIApp) -> None:
    answer = await ask(app, "POST", b"/v1/nothing")

    assert answer.json() == {
        "error": {"message": NOTHING, "type": "not_found_error", "param": None, "code": None}
    }


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", b"/api/chat", b"POST"),
        ("DELETE", b"/api/generate", b"POST"),
        ("OPTIONS", b"/api/chat", b"POST"),
        ("TRACE", b"/api/tags", b"GET, HEAD"),
        ("POST", b"/api/version", b"GET, HEAD"),
        ("PUT", b"/", b"GET, HEAD"),
        ("HEAD", b"/v1/models", b"GET"),
        ("PURGE", b"/v1/embeddings", b"POST"),
    ],
)
async def test_t23_a_wrong_method_is_told_the_right_ones(
    app: ASGIApp, method: str, path: bytes, allow: bytes
) -> None:
    answer = await ask(app, method, path, [(b"x-http-method-override", b"POST")])

    assert (answer.status, answer.header(b"allow")) == (405, allow)
    assert answer.header(b"x-request-id")
    assert answer.header(b"access-control-allow-origin") is None


async def test_t23_the_frameworks_own_routes_say_it_in_our_words(app: ASGIApp) -> None:
    answer = await ask(app, "POST", b"/healthz")

    assert answer.status == 405
    assert b"GET" in (answer.header(b"allow") or b"")
    assert isinstance(answer.json()["error"], str)
    assert answer.header(b"x-request-id")


@pytest.mark.parametrize("host", [b"", b"[::", b"x" * 5000, b"evil@gateway:99999", b"a,b", b"admin.internal"])
@pytest.mark.parametrize(("raw_path", "status"), [(b"/", 200), (b"/healthz", 200), (b"/nothing", 404)])
async def test_t13_nothing_decides_on_the_host(
    app: ASGIApp, raw_path: bytes, status: int, host: bytes
) -> None:
    answer = await ask(app, "GET", raw_path, [(b"x-forwarded-host", b"elsewhere")], host=host)

    assert answer.status == status


@pytest.mark.parametrize("host", [b"a b", b"evil/../x?y#z", b"\xff\x00", b"<script>"])
async def test_t13_the_tenant_surface_never_looks_at_the_host(app: ASGIApp, host: bytes) -> None:
    answer = await ask(app, "GET", b"/", host=host)

    assert answer.status == 200


@pytest.mark.parametrize("host", [b"a b", b"evil/../x?y#z", b"\xff\x00", b"<script>"])
@pytest.mark.parametrize("raw_path", [b"/healthz", b"/nothing"])
async def test_t13_a_host_that_is_none_is_refused_in_our_shape(
    app: ASGIApp, raw_path: bytes, host: bytes
) -> None:
    answer = await ask(app, "GET", raw_path, host=host)

    assert (answer.status, answer.json()) == (400, {"error": "The request is malformed."})
    UUID((answer.header(b"x-request-id") or b"").decode())


async def test_t15_a_request_id_of_the_client_is_never_given_back(app: ASGIApp) -> None:
    for raw_path in (b"/", b"/nothing", b"/healthz", b"//"):
        answer = await ask(app, "GET", raw_path, [(b"x-request-id", b"mine")])

        UUID((answer.header(b"x-request-id") or b"").decode())


@pytest.mark.parametrize("raw_path", [b"/", b"/healthz", b"/nothing", b"//", b"/api/blobs/x/"])
@pytest.mark.parametrize("host", [b"gateway", b"no host"])
async def test_t33_no_answer_names_the_server_below(app: ASGIApp, raw_path: bytes, host: bytes) -> None:
    assert (await ask(app, "GET", raw_path, host=host)).header(b"server") == b"neuronetz-gateway"


async def test_t45_probes_say_nothing_but_their_status(app: ASGIApp) -> None:
    live, ready = await ask(app, "GET", b"/healthz"), await ask(app, "GET", b"/readyz")

    assert (live.status, live.body) == (200, b'{"status":"ok"}')
    assert (ready.status, ready.body) == (503, b'{"status":"unavailable"}')


@pytest.mark.parametrize("path", [b"/k/x/api/tags", b"/k/x/", b"/k/x"])
async def test_keys_in_paths_are_unknown_paths_unless_they_are_turned_on(app: ASGIApp, path: bytes) -> None:
    refused(await ask(app, "GET", path))


async def test_no_page_may_ask_unless_it_is_named(app: ASGIApp) -> None:
    question = [(b"origin", b"https://a.example"), (b"access-control-request-method", b"POST")]
    answer = await ask(app, "OPTIONS", b"/api/chat", question)

    assert (answer.status, answer.header(b"allow"), answer.header(b"vary")) == (405, b"POST", None)


class World:
    """A gate in front of a small service, with a log and metrics to look at."""

    def __init__(self) -> None:
        @get("/framework")
        async def framework() -> str:
            return "hello"

        async def below(scope: Scope, receive: Receive, send: Send) -> None:
            del scope, receive
            await Downstream(send, request_id=b"of its own").answer(404, TEXT, b"below")

        self.log = io.StringIO()
        self.metrics = Metrics()
        self._access_log = AccessLog("json", self.log)
        refusals = Refusals(self.metrics, self._access_log)
        service = Litestar(
            [framework],
            exception_handlers={HTTPException: refusals.http, Exception: refusals.fault},
            openapi_config=None,
            logging_config=None,
        )
        self.app = Gate(service, endpoints={"/exact": below}, below={"/below/": below}, refusals=refusals)

    def lines(self) -> list[dict[str, Any]]:
        self._access_log.flush()
        return [msgspec.json.decode(line) for line in self.log.getvalue().splitlines()]

    def counted(self) -> dict[str, float]:
        self.metrics.flush()
        return {
            sample.labels["status"]: sample.value
            for family in self.metrics.requests.collect()
            for sample in family.samples
            if sample.name == "nng_requests_total" and sample.labels["route"] == NO_ROUTE
        }


@pytest.mark.parametrize(
    ("method", "raw_path", "status"),
    [
        ("GET", b"//framework", 404),
        ("GET", b"/nothing", 404),
        ("POST", b"/framework", 405),
        ("GET", b"/framework", 400),
    ],
)
async def test_what_no_route_answers_is_logged_and_counted_once(
    method: str, raw_path: bytes, status: int
) -> None:
    world = World()

    answer = await ask(world.app, method, raw_path, host=b"not a host" if status == 400 else b"gateway")

    (line,) = world.lines()
    assert (line["method"], line["route"], line["status"]) == (method, NO_ROUTE, status)
    assert line["request_id"].encode() == answer.header(b"x-request-id")
    assert line["bytes"] == len(answer.body)
    assert world.counted() == {str(status): 1}


@pytest.mark.parametrize("raw_path", [b"/framework", b"/below/x"])
async def test_what_a_route_answers_is_left_to_that_route(raw_path: bytes) -> None:
    world = World()

    await ask(world.app, "GET", raw_path)

    assert world.lines() == []
    assert world.counted() == {}


async def test_an_endpoints_own_request_id_stays() -> None:
    answer = await ask(World().app, "GET", b"/below/x")

    assert answer.header(b"x-request-id") == b"of its own"


async def test_t36_ten_thousand_random_paths_are_one_series() -> None:
    world = World()

    for number in range(10_000):
        await ask(world.app, "GET", b"/%d" % number)

    assert world.counted() == {"404": 10_000}
    assert world.metrics.exposition().count(b"\nnng_requests_total{") == 1


async def test_t35_no_path_or_query_is_ever_logged() -> None:
    world = World()

    for raw_path in (b"/canary", b"//canary", b"/canary/"):
        await ask(world.app, "GET", raw_path, [(b"authorization", b"Bearer canary")], query=b"key=canary")

    assert len(world.lines()) == 3
    assert "canary" not in world.log.getvalue()
