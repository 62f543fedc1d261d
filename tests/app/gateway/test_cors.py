"""Browsers: only pages of named origins are told anything, and refusals are told like answers."""

import io
from typing import Any

import msgspec
import pytest
from litestar.types import Receive, Scope, Send

from app.gateway.access_log import AccessLog
from app.gateway.cors import PREFLIGHT, Cors
from app.gateway.downstream import JSON, Downstream
from app.metrics import Metrics
from app.settings import load_app_settings
from db.settings import SettingsError
from domain.keys import mint_pepper
from tests.support.asgi import Answer, ask

ORIGIN = b"https://chat.example.org"
FOREIGN = [
    b"https://evil.example",
    b"https://chat.example.org.evil.example",
    b"http://chat.example.org",
    b"null",
    b"",
]


class World:
    """CORS in front of something that refuses everything."""

    def __init__(self) -> None:
        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            del receive
            self.reached.append(scope["path"])
            await Downstream(send, request_id=b"i").answer(405, JSON, b"{}", ((b"allow", b"POST"),))

        self.reached: list[str] = []
        self.log = io.StringIO()
        self._access_log = AccessLog("json", self.log)
        self.app = Cors(inner, origins=[ORIGIN.decode()], metrics=Metrics(), access_log=self._access_log)

    async def ask(self, method: str, path: bytes, *headers: tuple[bytes, bytes]) -> Answer:
        return await ask(self.app, method, path, headers)

    def lines(self) -> list[dict[str, Any]]:
        self._access_log.flush()
        return [msgspec.json.decode(line) for line in self.log.getvalue().splitlines()]


WANTED = (b"access-control-request-method", b"POST")


def told(answer: Answer) -> set[bytes]:
    return {name for name, _ in answer.headers if name.startswith(b"access-control-")}


@pytest.mark.parametrize(
    "path", [b"/api/chat", b"/v1/models", b"/", b"/me", b"/k/x/api/tags", b"/api/nothing"]
)
async def test_a_preflight_of_a_named_origin_is_answered_on_the_spot(path: bytes) -> None:
    world = World()
    answer = await world.ask("OPTIONS", path, (b"origin", ORIGIN), WANTED)

    assert (answer.status, answer.body, world.reached) == (204, b"", [])
    assert answer.header(b"access-control-allow-origin") == ORIGIN
    assert answer.header(b"access-control-allow-credentials") is None
    assert answer.header(b"x-request-id")
    assert (answer.header(b"vary") or b"").startswith(b"Origin")
    allowed = (answer.header(b"access-control-allow-headers") or b"").split(b", ")
    assert {b"authorization", b"x-api-key", b"content-type", b"anthropic-version", b"x-stainless-os"} <= set(
        allowed
    )


async def test_a_preflight_leaves_a_line_that_names_no_path() -> None:
    world = World()
    await world.ask("OPTIONS", b"/k/canary/api/tags", (b"origin", ORIGIN), WANTED)

    (line,) = world.lines()
    assert (line["route"], line["status"], line["method"]) == (PREFLIGHT, 204, "OPTIONS")
    assert "canary" not in world.log.getvalue()


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("method", ["OPTIONS", "POST"])
async def test_a_foreign_origin_is_told_nothing(method: str, origin: bytes) -> None:
    answer = await World().ask(method, b"/api/chat", (b"origin", origin), WANTED)

    assert (answer.status, told(answer)) == (405, set())
    assert answer.header(b"vary") == b"Origin"


async def test_options_without_a_question_is_a_request_like_others() -> None:
    world = World()

    assert (await world.ask("OPTIONS", b"/api/chat", (b"origin", ORIGIN))).status == 405
    assert world.reached == ["/api/chat"]


async def test_a_refusal_may_be_read_by_a_page_of_a_named_origin() -> None:
    answer = await World().ask("POST", b"/api/chat", (b"origin", ORIGIN))

    assert (answer.status, answer.header(b"access-control-allow-origin")) == (405, ORIGIN)
    assert b"retry-after" in (answer.header(b"access-control-expose-headers") or b"")
    assert answer.header(b"vary") == b"Origin"


@pytest.mark.parametrize("path", [b"/metrics", b"/healthz", b"/admin/v1/keys", b"/admin/queues", b"/docs"])
async def test_what_is_not_for_tenants_is_left_alone(path: bytes) -> None:
    world = World()
    answer = await world.ask("OPTIONS", path, (b"origin", ORIGIN), WANTED)

    assert (world.reached, told(answer), answer.header(b"vary")) == ([path.decode()], set(), None)


ENVIRON = {
    "DATABASE_URL": "postgresql://u:p@127.0.0.1:1/none",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "GATEWAY_KEY_PEPPER": mint_pepper("p1"),
}


@pytest.mark.parametrize(
    "origin",
    ["*", "https://*.example.org", "null", "chat.example.org", "https://a.example/", "HTTPS://A.example"],
)
def test_an_origin_that_is_none_stops_the_start(origin: str) -> None:
    with pytest.raises(SettingsError, match="GATEWAY_CORS_ORIGINS"):
        load_app_settings({**ENVIRON, "GATEWAY_CORS_ORIGINS": f"https://fine.example,{origin}"})


def test_origins_of_pages_extensions_and_addresses_are_origins() -> None:
    named = ("https://a.example:8443", "app://obsidian.md", "http://127.0.0.1:3000", "http://[::1]:3000")

    settings = load_app_settings({**ENVIRON, "GATEWAY_CORS_ORIGINS": ",".join(named)})

    assert settings.cors_origins == named
