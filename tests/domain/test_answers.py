import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.answers import Echo, WholeAnswer, read_whole, usage_at_end
from domain.routes import inference_routes
from domain.usage import MeasuredUsage
from tests.support.counts import count

pytestmark = pytest.mark.parser

ROUTES = inference_routes()
NATIVE_END = {
    "done": True,
    "done_reason": "stop",
    "total_duration": 90,
    "load_duration": 20,
    "prompt_eval_count": 7,
    "prompt_eval_duration": 30,
    "eval_count": 3,
    "eval_duration": 15,
}
NATIVE_USAGE = MeasuredUsage(7, 3, total_ns=90, load_ns=20, prompt_ns=30, eval_ns=15)
OPENAI_USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}

ANSWERS: dict[str, tuple[dict[str, object], MeasuredUsage | None]] = {
    "/api/generate": ({"model": "m", "response": "a", **NATIVE_END, "context": [1, 2]}, NATIVE_USAGE),
    "/api/chat": ({"model": "m", "message": {"content": 'x"],"eval_count":99}'}, **NATIVE_END}, NATIVE_USAGE),
    "/api/embed": (
        {
            "model": "m",
            "embeddings": [[0.5, 1e-3]],
            "total_duration": 90,
            "load_duration": 20,
            "prompt_eval_count": 7,
        },
        MeasuredUsage(7, 0, total_ns=90, load_ns=20),
    ),
    "/api/embeddings": ({"embedding": [0.5, 1e-3]}, None),
    "/v1/chat/completions": (
        {
            "model": "m",
            "choices": [{"message": {"content": "a"}, "finish_reason": "stop"}],
            "usage": OPENAI_USAGE,
        },
        MeasuredUsage(7, 3),
    ),
    "/v1/completions": (
        {"model": "m", "choices": [{"text": "a", "finish_reason": "length"}], "usage": OPENAI_USAGE},
        MeasuredUsage(7, 3),
    ),
    "/v1/embeddings": (
        {
            "object": "list",
            "data": [{"embedding": "AAAA", "index": 0}],
            "model": "m",
            "usage": {"prompt_tokens": 7, "total_tokens": 7},
        },
        MeasuredUsage(7, 0),
    ),
    "/v1/responses": (
        {
            "object": "response",
            "status": "completed",
            "model": "m",
            "output": [{"content": [{"text": '"usage":{"input_tokens":99}'}]}],
            "error": None,
            "tools": [{"parameters": {"properties": {"usage": {"input_tokens": 99}}}}],
            "text": {"format": {"schema": {"required": ["a"]}}},
            "usage": {
                "input_tokens": 7,
                "output_tokens": 3,
                "total_tokens": 10,
                "input_tokens_details": {"cached_tokens": 0},
            },
            "metadata": {},
        },
        MeasuredUsage(7, 3),
    ),
    "/v1/messages": (
        {
            "type": "message",
            "model": "m",
            "content": [{"type": "tool_use", "input": {"usage": {"input_tokens": 99}}}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 7, "output_tokens": 3},
        },
        MeasuredUsage(7, 3),
    ),
}


@pytest.mark.parametrize("path", ANSWERS)
def test_a_whole_answer_tells_its_usage(path: str) -> None:
    body, usage = ANSWERS[path]

    assert read_whole(ROUTES[path], json.dumps(body).encode()) == WholeAnswer(complete=True, usage=usage)


@pytest.mark.parametrize("path", ANSWERS)
@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"<html>", b'{"model":"m"}', b'{"x":', b"\xff", b"[" * 9_000]
)
def test_what_this_route_does_not_answer_is_incomplete(path: str, body: bytes) -> None:
    assert not read_whole(ROUTES[path], body).complete


@pytest.mark.parametrize("path", ANSWERS)
def test_an_error_with_status_200_is_incomplete(path: str) -> None:
    answer = read_whole(ROUTES[path], b'{"error":"out of memory"}')

    assert answer == WholeAnswer(complete=False, error_text="out of memory")


def test_an_answer_that_ollama_gave_up_is_incomplete() -> None:
    assert not read_whole(ROUTES["/api/chat"], b'{"message":{"content":"a"},"done":false}').complete
    assert not read_whole(
        ROUTES["/v1/chat/completions"], b'{"choices":[{"finish_reason":null}],"usage":{"prompt_tokens":0}}'
    ).complete


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("/v1/responses", {"status": "in_progress"}),
        ("/v1/responses", {"usage": {"input_tokens": 0, "output_tokens": 0}}),
        ("/v1/responses", {"usage": None}),
        ("/v1/responses", {"error": {"code": "server_error", "message": "x"}}),
        ("/v1/messages", {"stop_reason": None}),
        ("/v1/messages", {"stop_reason": ""}),
        ("/v1/messages", {"type": "error", "error": {"type": "api_error", "message": "x"}}),
    ],
)
def test_what_a_backend_gave_up_is_incomplete_in_every_family(path: str, change: dict[str, object]) -> None:
    body, _ = ANSWERS[path]

    assert not read_whole(ROUTES[path], json.dumps(body | change).encode()).complete


TEXT = "你好" * 20  # 120 bytes
ARGUMENTS = {"city": "Ulm"}  # 14 bytes
NO_TOKENS = {"input_tokens": 0, "output_tokens": 0}
NATIVE_CALL = {"function": {"name": "f", "arguments": ARGUMENTS}}
OPENAI_CALL = {"function": {"name": "f", "arguments": '{"city":"Ulm"}'}}
SUMMARY = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "abcd"}]}
GIVEN_UP: list[tuple[str, dict[str, object], int]] = [
    ("/api/generate", {"response": TEXT, "thinking": "abcd", "done": False}, 31),
    ("/api/chat", {"message": {"content": TEXT}, "done": False}, 30),
    ("/api/chat", {"message": {"content": "", "thinking": "a"}, "done": False}, 1),
    ("/api/chat", {"message": {"content": "ab", "tool_calls": [NATIVE_CALL]}, "done": False}, 4),
    ("/api/chat", {"message": {"content": TEXT}}, 0),
    ("/api/chat", {"message": {"content": ""}, "done": False}, 0),
    ("/v1/completions", {"choices": [{"text": TEXT, "finish_reason": None}]}, 30),
    ("/v1/chat/completions", {"choices": [{"message": {"content": TEXT}, "finish_reason": None}]}, 30),
    ("/v1/chat/completions", {"choices": [{"message": {"content": None, "tool_calls": [OPENAI_CALL]}}]}, 3),
    (
        "/v1/responses",
        {"status": "completed", "output": [SUMMARY, {"content": [{"text": TEXT}]}], "usage": NO_TOKENS},
        31,
    ),
    ("/v1/responses", {"status": "completed", "output": [{"arguments": '{"city":"Ulm"}'}]}, 3),
    ("/v1/messages", {"type": "message", "content": [{"thinking": "abcd"}, {"text": TEXT}]}, 31),
    ("/v1/messages", {"type": "message", "content": [{"type": "tool_use", "input": ARGUMENTS}]}, 3),
]


@pytest.mark.parametrize(("path", "body", "tokens"), GIVEN_UP)
def test_what_stood_in_an_answer_that_was_given_up_is_told(
    path: str, body: dict[str, object], tokens: int
) -> None:
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()

    assert read_whole(ROUTES[path], text) == WholeAnswer(complete=False, given_up=tokens)


@pytest.mark.parametrize(("path", "body"), [(path, body) for path, body, _ in GIVEN_UP])
def test_an_answer_with_an_error_was_not_given_up(path: str, body: dict[str, object]) -> None:
    assert read_whole(ROUTES[path], json.dumps(body | {"error": "x"}).encode()).given_up == 0


def test_an_incomplete_response_is_a_whole_answer() -> None:
    body, usage = ANSWERS["/v1/responses"]

    answer = read_whole(ROUTES["/v1/responses"], json.dumps(body | {"status": "incomplete"}).encode())

    assert answer == WholeAnswer(complete=True, usage=usage)


def test_a_count_of_no_input_tokens_is_unknown() -> None:
    body, _ = ANSWERS["/v1/messages"]
    counts = {"usage": {"input_tokens": 0, "output_tokens": 3}}

    assert read_whole(ROUTES["/v1/messages"], json.dumps(body | counts).encode()).usage == MeasuredUsage(
        None, 3
    )


def test_a_load_costs_nothing() -> None:
    answer = read_whole(ROUTES["/api/generate"], b'{"response":"","done":true,"done_reason":"load"}')

    assert answer == WholeAnswer(complete=True, usage=MeasuredUsage(0, 0))


@pytest.mark.parametrize("path", [path for path in ANSWERS if path not in {"/api/chat", "/api/embeddings"}])
@pytest.mark.parametrize("tail_bytes", [300, 10_000])
def test_the_end_of_a_large_body_tells_its_usage(path: str, tail_bytes: int) -> None:
    body, usage = ANSWERS[path]
    text = json.dumps({key: value for key, value in body.items() if key != "context"}, separators=(",", ":"))
    if path == "/api/generate":
        text = text.replace('"done":true,', '"done":true,"context":[1,2,3],')

    assert usage_at_end(ROUTES[path], text.encode()[-tail_bytes:]) == usage


@pytest.mark.parametrize("path", ANSWERS)
@pytest.mark.parametrize(
    "tail", [b"", b"]", b"junk", b'x]","eval_count":5}', b'\\"],\\"eval_count\\":5}', b"\xff]}"]
)
def test_an_end_that_shows_no_usage_tells_none(path: str, tail: bytes) -> None:
    usage = usage_at_end(ROUTES[path], tail)

    assert usage is None or usage.tokens_out == 0


def test_an_echo_replaces_only_the_model() -> None:
    body = rb'{"model":"m:latest","message":{"content":"\"model\":\"m:latest\" \u00e9","n":1.50},"done":true}'

    echoed = Echo("m:latest", "M").whole(body)

    assert echoed == body.replace(b'"model":"m:latest"', b'"model":"M"', 1)


def test_an_echo_within_a_field_leaves_everything_else_alone() -> None:
    data = rb'{"model":"m:latest","response":{"id":1.50,"model":"m:latest","x":{"model":"m:latest"}},"z":"\u00e9"}'

    echoed = Echo("m:latest", "M").within("response", data)

    assert echoed == data.replace(b'1.50,"model":"m:latest"', b'1.50,"model":"M"')


@pytest.mark.parametrize("data", [b"", b"junk", b"[]", b'{"a":1}', b'{"response":5}', b"\xff"])
def test_an_echo_within_what_is_not_there_changes_nothing(data: bytes) -> None:
    assert Echo("m:latest", "M").within("response", data) == data


@pytest.mark.parametrize("body", [b"", b"junk", b"[]", b'{"embedding":[0.5]}', b"\xff"])
def test_an_echo_leaves_what_has_no_model_alone(body: bytes) -> None:
    assert Echo("m:latest", "M").whole(body) == body


@given(st.sampled_from(sorted(ROUTES)), st.binary(max_size=100))
@settings(max_examples=count(300, 100_000), deadline=None)
def test_random_bytes_never_raise(path: str, body: bytes) -> None:
    read_whole(ROUTES[path], body)
    usage_at_end(ROUTES[path], body)
    Echo("m", "M").whole(body)
    Echo("m", "M").head(body)
    Echo("m", "M").within("response", body)
