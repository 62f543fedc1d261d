import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.ollama import Verdict, VerdictKind, classify, classify_error_record, unload_answer
from domain.routes import RouteSpec, inference_routes
from tests.support.counts import count

pytestmark = pytest.mark.parser

ROUTES = inference_routes()
CHAT = ROUTES["/api/chat"]
EMBED = ROUTES["/api/embed"]
JSON = b"application/json; charset=utf-8"
TEXT = b"text/plain"


def native(error: str) -> bytes:
    return json.dumps({"error": error}).encode()


def openai(error: str) -> bytes:
    return json.dumps(
        {"error": {"message": error, "type": "api_error", "param": None, "code": None}}
    ).encode()


@pytest.mark.parametrize(
    ("status", "body", "content_type", "kind"),
    [
        (200, b"", JSON, VerdictKind.GOOD),
        (200, b"", b"application/x-ndjson", VerdictKind.GOOD),
        (200, b"", b"Text/Event-Stream", VerdictKind.GOOD),
        (200, b"", b"text/html", VerdictKind.BACKEND_TROUBLE),
        (200, b"", b"", VerdictKind.BACKEND_TROUBLE),
        (204, b"", b"", VerdictKind.BACKEND_TROUBLE),
        (206, b"", JSON, VerdictKind.BACKEND_TROUBLE),
        (301, b"", b"", VerdictKind.BACKEND_TROUBLE),
        (307, b"", b"", VerdictKind.BACKEND_TROUBLE),
        (400, native("invalid options"), JSON, VerdictKind.CLIENT_FAULT),
        (400, b"<html>bad request</html>", b"text/html", VerdictKind.BACKEND_TROUBLE),
        (401, native("unauthorized"), JSON, VerdictKind.BACKEND_TROUBLE),
        (403, b"", b"", VerdictKind.BACKEND_TROUBLE),
        (404, native("model 'x' not found"), JSON, VerdictKind.MODEL_MISSING),
        (404, openai('model "x" not found, try pulling it first'), JSON, VerdictKind.MODEL_MISSING),
        (404, b"404 page not found", TEXT, VerdictKind.ROUTE_MISSING),
        (404, b'{"detail":"Not Found"}', JSON, VerdictKind.ROUTE_MISSING),
        (405, b"405 method not allowed", TEXT, VerdictKind.ROUTE_MISSING),
        (413, b"", TEXT, VerdictKind.BACKEND_TROUBLE),
        (429, native("limit"), JSON, VerdictKind.BACKEND_TROUBLE),
        (499, native("request canceled"), JSON, VerdictKind.BACKEND_TROUBLE),
        (500, native("llama runner process has terminated"), JSON, VerdictKind.SERVER_ERROR),
        (500, b"", b"", VerdictKind.SERVER_ERROR),
        (502, b"<html>", b"text/html", VerdictKind.SERVER_ERROR),
        (503, native("server busy, please try again"), JSON, VerdictKind.BUSY),
        (504, b"", b"", VerdictKind.SERVER_ERROR),
        (599, b"", b"", VerdictKind.SERVER_ERROR),
    ],
)
def test_a_status_decides(status: int, body: bytes, content_type: bytes, kind: VerdictKind) -> None:
    verdict = classify(status, body, content_type, CHAT)

    assert (verdict.kind, verdict.upstream_status) == (kind, status)


@pytest.mark.parametrize(
    ("status", "text", "told"),
    [
        (500, 'option "num_predict" must be of type integer', "an option"),
        (500, 'option "stop" must be of an array of strings', "an option"),
        (500, 'invalid format: "xml"; expected "json" or a valid JSON Schema object', "'format'"),
        (500, "invalid JSON schema in format", "'format'"),
        (500, "template: :1: unexpected {{end}}", "template"),
        (400, '"m" does not support thinking', "thinking"),
        (400, "registry.ollama.ai/library/m:latest does not support tools", "tools"),
        (400, "raw mode does not support template, system, or context", "'raw'"),
        (400, "the input length exceeds the context length", "longer than"),
        (400, "top_logprobs must be between 0 and 20", "top_logprobs"),
        (400, "something new", "refused"),
    ],
)
@pytest.mark.parametrize("shape", [native, openai])
def test_a_mistake_of_the_client_is_told_in_our_words(
    status: int, text: str, told: str, shape: Callable[[str], bytes]
) -> None:
    verdict = classify(status, shape(text), JSON, CHAT)

    assert (verdict.kind, verdict.status) == (VerdictKind.CLIENT_FAULT, 400)
    assert told in verdict.message
    assert text not in verdict.message


@pytest.mark.parametrize(
    "text",
    [
        'do embedding request: Post "http://127.0.0.1:4242/embedding": EOF',
        "dial tcp 127.0.0.1:4242: connect: connection refused",
        "read: connection reset by peer",
        "llama runner process no longer running: -1",
    ],
)
def test_a_crash_that_embed_reports_as_the_clients_mistake_is_the_servers(text: str) -> None:
    for spec in (EMBED, ROUTES["/v1/embeddings"]):
        assert classify(400, native(text), JSON, spec).kind is VerdictKind.SERVER_ERROR
    assert classify(400, native(text), JSON, CHAT).kind is VerdictKind.CLIENT_FAULT


@pytest.mark.parametrize(
    ("text", "late"),
    [
        ("the input length exceeds the context length", True),
        ("input is larger than the available context size", True),
        ("this model does not support embeddings", False),
        ("something new", False),
    ],
)
def test_only_a_text_that_is_too_long_is_found_when_others_were_computed(text: str, *, late: bool) -> None:
    assert classify(400, native(text), JSON, EMBED).late is late


def test_a_real_mistake_on_embed_stays_the_clients() -> None:
    assert classify(400, native("invalid input type"), JSON, EMBED).kind is VerdictKind.CLIENT_FAULT


def test_an_error_record_before_anything_was_relayed_is_a_server_error_or_the_clients_fault() -> None:
    assert classify_error_record("CUDA out of memory", CHAT).kind is VerdictKind.SERVER_ERROR
    assert classify_error_record("Option must be of type integer", CHAT).kind is VerdictKind.CLIENT_FAULT


@pytest.mark.parametrize(
    ("path", "output"),
    [("/api/chat", {"message": {"role": "assistant", "content": ""}}), ("/api/generate", {"response": ""})],
)
def test_an_unload_is_answered_as_ollama_answers_it(path: str, output: dict[str, object]) -> None:
    answer = json.loads(unload_answer(ROUTES[path], "LLAMA3"))

    assert answer.pop("created_at").endswith("Z")
    assert answer == {"model": "LLAMA3", **output, "done": True, "done_reason": "unload"}


@given(
    st.integers(100, 999),
    st.text(max_size=60).map(native) | st.binary(max_size=60),
    st.sampled_from(sorted(ROUTES)),
)
@settings(max_examples=count(300, 100_000), deadline=None)
def test_any_answer_is_judged_and_none_of_its_text_told(status: int, body: bytes, path: str) -> None:
    verdict: Verdict = classify(status, body, JSON, ROUTES[path])
    spec: RouteSpec = ROUTES[path]

    assert verdict.message == classify(status, body, JSON, spec).message
    assert (verdict.message != "") is (verdict.kind is VerdictKind.CLIENT_FAULT)
