"""One endpoint per path: exact path, allowed methods, one answer, one line, one count, whatever happens."""

import io
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec
import pytest
import structlog

from app.gateway.access_log import AccessLog
from app.gateway.body import BodyCut, ClientLeft
from app.gateway.downstream import HEARTBEAT, JSON
from app.gateway.endpoint import Endpoint, Handler, PublicRoute, Visit
from app.gateway.lingering import Lingering
from app.gateway.relay import AnswerCut
from app.metrics import Metrics
from app.problems import problem_of, render_event
from domain.errors import BadRequest, ModelForbidden, NoCandidate, Unauthenticated
from domain.values import ApiFamily
from tests.support.asgi import Answer, Inbox, Outbox, scope


class World:
    """An endpoint with a log and metrics to look at."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        template: str = "/api/thing",
        prefix: bytes | None = None,
        family: ApiFamily = ApiFamily.NATIVE,
    ) -> None:
        self.stream = io.StringIO()
        self.log = AccessLog("json", self.stream)
        self.metrics = Metrics()
        self.outbox = Outbox()
        route = PublicRoute(template, family, handlers, prefix)
        self.endpoint = Endpoint(route, metrics=self.metrics, access_log=self.log, lingering=Lingering())

    async def ask(
        self,
        method: str = "GET",
        raw_path: bytes = b"/api/thing",
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        asked: Any = scope(method, raw_path, headers, query=b"key=canary")
        await self.endpoint.answer(asked, Inbox(), self.outbox)

    def answer(self) -> Answer:
        return self.outbox.answer()

    def line(self) -> dict[str, Any]:
        self.log.flush()
        found: dict[str, Any] = msgspec.json.decode(self.stream.getvalue())
        return found

    def counted(self) -> dict[tuple[str, str], float]:
        self.metrics.flush()
        return {
            (sample.labels["route"], sample.labels["status"]): sample.value
            for family in self.metrics.requests.collect()
            for sample in family.samples
            if sample.name == "nng_requests_total"
        }


async def fine(visit: Visit) -> None:
    await visit.downstream.answer(200, JSON, b'{"fine":true}')


def failing(error: Exception, *, after_start: bool = False) -> Handler:
    async def fail(visit: Visit) -> None:
        if after_start:
            await visit.downstream.start(200, JSON)
            await visit.downstream.write(b"begun")
        raise error

    return fail


async def test_an_answer_leaves_one_line_and_one_count() -> None:
    world = World({"GET": fine})

    await world.ask(headers=((b"x-request-id", b"mine"),))

    line = world.line()
    assert world.answer().json() == {"fine": True}
    assert (line["method"], line["route"], line["status"], line["bytes"]) == ("GET", "/api/thing", 200, 13)
    assert line["request_id"].encode() == world.answer().header(b"x-request-id")
    assert line["client_request_id"] == "mine"
    assert world.counted() == {("/api/thing", "200"): 1}


@pytest.mark.parametrize("raw_path", [b"/api/thing/", b"//api/thing", b"/api/%74hing", b"/API/thing", b""])
async def test_t22_another_spelling_of_the_path_is_not_here(raw_path: bytes) -> None:
    world = World({"GET": fine})

    await world.ask(raw_path=raw_path)

    assert world.answer().status == 404


async def test_anything_may_follow_a_prefix() -> None:
    world = World({"GET": fine}, template="/api/below/{rest:path}", prefix=b"/api/below/")

    await world.ask(raw_path=b"/api/below/canary/x")

    assert world.answer().status == 200
    assert world.line()["route"] == "/api/below/{rest:path}"


async def test_a_wrong_method_is_told_the_right_ones() -> None:
    world = World({"GET": fine, "HEAD": fine})

    await world.ask("DELETE")

    assert (world.answer().status, world.answer().header(b"allow")) == (405, b"GET, HEAD")


@pytest.mark.parametrize(
    ("error", "status"),
    [(Unauthenticated(), 401), (ModelForbidden(), 403), (BadRequest("Say it better."), 400), (NoCandidate(7), 503)],
)  # fmt: skip
@pytest.mark.parametrize("family", list(ApiFamily))
async def test_a_refusal_is_answered_in_the_shape_of_its_family(
    error: Exception, status: int, family: ApiFamily
) -> None:
    world = World({"GET": failing(error)}, family=family)

    await world.ask()

    said = world.answer().json()["error"]
    assert world.answer().status == world.line()["status"] == status
    assert isinstance(said, str if family is ApiFamily.NATIVE else dict)


async def test_a_client_that_left_is_a_499_that_nobody_gets() -> None:
    world = World({"GET": failing(ClientLeft())})

    await world.ask()

    assert world.outbox.events == []
    assert world.line()["status"] == 499
    assert world.counted() == {("/api/thing", "499"): 1}


@pytest.mark.parametrize("family", list(ApiFamily))
async def test_who_breaks_off_a_body_and_still_listens_is_told(family: ApiFamily) -> None:
    world = World({"GET": failing(BodyCut())}, family=family)

    await world.ask()

    said = world.answer().json()["error"]
    assert (world.answer().status, world.answer().header(b"connection")) == (400, b"close")
    assert isinstance(said, str if family is ApiFamily.NATIVE else dict)
    assert world.line()["status"] == 499


@pytest.mark.parametrize(
    "headers",
    [
        ((b"transfer-encoding", b"gzip, chunked"),),
        ((b"transfer-encoding", b"chunked, chunked"),),
        ((b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")),
        ((b"transfer-encoding", b"identity"), (b"transfer-encoding", b"chunked")),
        ((b"transfer-encoding", b"\x0bchunked"),),
    ],
)
async def test_t19_a_request_that_could_end_in_two_places_is_refused(
    headers: tuple[tuple[bytes, bytes], ...],
) -> None:
    world = World({"GET": fine})

    await world.ask(headers=headers)

    assert (world.answer().status, world.answer().header(b"connection")) == (400, b"close")


@pytest.mark.parametrize("coding", [b"chunked", b"Chunked", b" CHUNKED "])
async def test_chunks_alone_are_fine(coding: bytes) -> None:
    world = World({"GET": fine})

    await world.ask(headers=((b"transfer-encoding", coding),))

    assert world.answer().status == 200


async def test_a_fault_of_ours_is_a_500_without_details_and_a_trace_for_the_operator() -> None:
    world = World({"GET": failing(RuntimeError("canary"))})

    with structlog.testing.capture_logs() as logs:
        await world.ask()

    assert world.answer().status == 500
    assert b"canary" not in world.answer().body
    assert [(line["event"], line["route"], line["exc_info"]) for line in logs] == [
        ("request_failed", "/api/thing", True)
    ]
    UUID(logs[0]["request_id"])


@pytest.mark.parametrize("error", [RuntimeError("a fault"), AnswerCut(), NoCandidate(7)])
async def test_an_answer_that_has_begun_is_left_unfinished(error: Exception) -> None:
    world = World({"GET": failing(error, after_start=True)})

    with structlog.testing.capture_logs():
        await world.ask()

    assert [event.get("body") for event in world.outbox.events] == [None, b"begun"]
    assert world.outbox.events[-1]["more_body"]
    assert world.line()["status"] == 200


async def test_a_cut_answer_is_no_fault() -> None:
    world = World({"GET": failing(AnswerCut(), after_start=True)})

    with structlog.testing.capture_logs() as logs:
        await world.ask()

    assert logs == []


async def test_t35_neither_query_nor_key_is_logged() -> None:
    world = World({"GET": fine})

    await world.ask(
        headers=(
            (b"authorization", b"Bearer canary"),
            (b"x-api-key", b"canary"),
            (b"user-agent", b"canary"),
            (b"cookie", b"canary"),
            (b"x-forwarded-for", b"canary"),
        )
    )

    assert world.line()["status"] == 200
    assert "canary" not in world.stream.getvalue()


async def test_a_refusal_after_heartbeats_alone_is_told_in_band() -> None:
    async def refuses(visit: Visit) -> None:
        visit.downstream.allow_heartbeats()
        visit.downstream.beat()
        raise NoCandidate(7)

    world = World({"GET": refuses}, family=ApiFamily.OPENAI)

    await world.ask()

    problem = problem_of(NoCandidate(7))
    assert world.answer().status == world.line()["status"] == 200
    assert world.answer().body == HEARTBEAT + render_event(problem, ApiFamily.OPENAI, b"id")
