"""What is read of a request, and the body that a backend gets instead of it."""

import json

import pytest

from domain.errors import BadRequest
from domain.requests import parse_request
from domain.routes import inference_routes
from tests.support.requests import NATIVE, PROMPTS, ROUTES, forwarded, parse, ruled, sent

NO_POLICY = ruled()
STREAMING = (
    *("/api/generate", "/api/chat", "/v1/chat/completions", "/v1/completions"),
    *("/v1/responses", "/v1/messages"),
)


@pytest.mark.parametrize("path", ROUTES)
def test_a_plain_request_is_forwarded_with_the_forwarded_model(path: str) -> None:
    body = json.loads(forwarded(parse(path), "other"))

    assert body["model"] == "other"
    assert body.items() >= PROMPTS[path].items()


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": 1}, {"model": ["m"]}])
def test_a_request_without_a_model_name_is_refused(path: str, model: dict[str, object]) -> None:
    with pytest.raises(BadRequest, match=r"^the field 'model' is required and must be a string$"):
        parse_request(ROUTES[path], json.dumps({**PROMPTS[path], **model}).encode())


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"ok","Model":"bad","messages":[]}',
        b'{"model":"ok","model":"bad","messages":[]}',
        b'{"MODEL":"bad","messages":[]}',
        b'{"model":"ok","messages":[]} {"model":"bad"}',
        b'{"model":"ok","messages":[]} junk',
        '{"model":"ok","messages":[],"\u212aeep_alive":0}'.encode(),
        '{"model":"ok","messages":[],"\u017ftream":false}'.encode(),
        b'{"model":"ok","messages":[],"options":{"num_ctx":1},"Options":{"num_predict":9}}',
        b'{"model":"ok","messages":[],"options":{"Num_Ctx":1}}',
        b'{"model":"ok","messages":[],"options":{"seed":1,"seed":2}}',
    ],
)
def test_a_body_that_ollama_reads_otherwise_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_request(ROUTES["/api/chat"], body)


def test_a_variant_inside_stream_options_is_refused() -> None:
    with pytest.raises(BadRequest, match="include_usage"):
        parse("/v1/chat/completions", stream=True, stream_options={"Include_Usage": True})


@pytest.mark.parametrize(("path", "streams"), [(path, path.startswith("/api")) for path in STREAMING])
def test_the_stream_flag_defaults_as_on_ollama(path: str, *, streams: bool) -> None:
    assert parse(path).stream is streams
    assert parse(path, stream=None).stream is streams
    assert sent(NO_POLICY, path)["stream"] is streams


@pytest.mark.parametrize("path", STREAMING)
def test_the_stream_flag_is_obeyed(path: str) -> None:
    assert parse(path, stream=True).stream is True
    assert parse(path, stream=False).stream is False


@pytest.mark.parametrize("path", STREAMING)
@pytest.mark.parametrize("flag", [1, 0, "true", [], {}])
def test_a_stream_flag_of_another_type_is_refused(path: str, flag: object) -> None:
    with pytest.raises(BadRequest, match="'stream'"):
        parse(path, stream=flag)


@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings", "/v1/embeddings"])
def test_embeddings_never_stream(path: str) -> None:
    assert parse(path, stream=True).stream is False
    assert "stream" not in sent(NO_POLICY, path, stream=True)


def test_unknown_fields_are_dropped_and_counted() -> None:
    request = parse("/v1/chat/completions", n=3, tool_choice="auto", user="u")

    assert request.dropped == 3
    assert not {"n", "tool_choice", "user"} & json.loads(forwarded(request)).keys()


def test_an_extra_field_of_the_operators_passes() -> None:
    spec = inference_routes(frozenset({"cache_salt"}))["/api/chat"]

    request = parse_request(spec, b'{"model":"m","messages":[],"cache_salt":[1, 2]}')

    assert b'"cache_salt":[1, 2]' in forwarded(request)


@pytest.mark.parametrize("name", ["keep_alive", "shift", "_debug_render_only"])
def test_an_extra_field_cannot_release_what_is_withheld(name: str) -> None:
    spec = inference_routes(frozenset({name}))["/api/chat"]

    request = parse_request(spec, json.dumps({"model": "m", "messages": [], name: "1s"}).encode())

    assert name.encode() not in forwarded(request)


def test_an_extra_field_that_is_a_variant_of_a_known_one_stops_the_start() -> None:
    with pytest.raises(ValueError, match="case"):
        inference_routes(frozenset({"Model"}))


@pytest.mark.parametrize("path", STREAMING)
def test_the_debug_switch_never_travels(path: str) -> None:
    assert "_debug_render_only" not in sent(NO_POLICY, path, _debug_render_only=True)


def test_subtrees_travel_as_the_clients_bytes() -> None:
    messages = rb'[ {"role":"user", "content":"\u00e9 \/", "x" : 1.10e0} ]'
    request = parse_request(ROUTES["/api/chat"], b'{"messages":' + messages + b' ,"model":"m"}')

    assert b'"messages":' + messages in forwarded(request)


@pytest.mark.parametrize("path", NATIVE)
@pytest.mark.parametrize("keep_alive", ["300", True, "x", []])
def test_a_keep_alive_that_ollama_refuses_is_refused(path: str, keep_alive: object) -> None:
    with pytest.raises(BadRequest, match="keep_alive"):
        parse(path, keep_alive=keep_alive)


def test_options_keep_the_clients_bytes() -> None:
    request = parse_request(ROUTES["/api/embed"], b'{"model":"m","options":{ "temperature" : 0.70,"x":1}}')

    assert b'"options":{"temperature":0.70}' in forwarded(request)


@pytest.mark.parametrize("options", [None, {}, {"unknown": 1}])
def test_no_options_are_sent_where_none_are_left(options: object) -> None:
    assert "options" not in sent(NO_POLICY, "/api/embed", options=options)


@pytest.mark.parametrize("options", [[], "x", 1, True])
def test_options_that_are_no_object_are_refused(options: object) -> None:
    with pytest.raises(BadRequest, match="'options'"):
        parse("/api/chat", options=options)


@pytest.mark.parametrize("value", [True, "10", [], {}])
def test_an_output_limit_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(BadRequest, match="num_predict"):
        parse("/api/chat", options={"num_predict": value})
    with pytest.raises(BadRequest, match="max_tokens"):
        parse("/v1/completions", max_tokens=value)
    with pytest.raises(BadRequest, match="max_completion_tokens"):
        parse("/v1/completions", max_completion_tokens=value)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**30])
def test_a_whole_number_that_ollama_cannot_hold_is_refused(value: int) -> None:
    assert parse("/v1/chat/completions", max_tokens=2**63 - 1).output_cap == 2**63 - 1
    with pytest.raises(BadRequest, match="'max_tokens'"):
        parse("/v1/chat/completions", max_tokens=value)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize(
    ("options", "wanted"),
    [(None, False), ({}, False), ({"include_usage": False}, False), ({"include_usage": True, "x": 1}, True)],
)
def test_a_stream_always_reports_usage_upstream(path: str, options: object, *, wanted: bool) -> None:
    request = parse(path, stream=True, stream_options=options)

    assert request.wants_usage is wanted
    assert json.loads(forwarded(request))["stream_options"] == {"include_usage": True}


def test_an_unstreamed_request_carries_no_stream_options() -> None:
    request = parse("/v1/completions", stream=False, stream_options={"include_usage": True})

    assert request.wants_usage is False
    assert b"stream_options" not in forwarded(request)


@pytest.mark.parametrize("options", [[], "x", {"include_usage": 1}])
def test_stream_options_of_another_type_are_refused(options: object) -> None:
    with pytest.raises(BadRequest):
        parse("/v1/completions", stream=True, stream_options=options)


@pytest.mark.parametrize(
    ("path", "empty"),
    [
        ("/api/generate", {"prompt": ""}),
        ("/api/generate", {"prompt": None}),
        ("/api/chat", {"messages": []}),
        ("/api/chat", {"messages": None}),
        ("/api/embed", {"input": []}),
        ("/api/embed", {"input": ""}),
        ("/api/embeddings", {"prompt": ""}),
    ],
)
def test_an_empty_prompt_only_loads_and_never_streams(path: str, empty: dict[str, object]) -> None:
    request = parse(path, **empty)

    assert request.is_load_only
    assert not request.is_unload
    assert not request.stream


@pytest.mark.parametrize(
    ("path", "empty"), [("/api/generate", {"prompt": ""}), ("/api/chat", {"messages": []})]
)
@pytest.mark.parametrize("keep_alive", [0, 0.0, "0", "0s"])
def test_an_empty_prompt_with_keep_alive_zero_unloads(
    path: str, empty: dict[str, object], keep_alive: object
) -> None:
    assert parse(path, **empty, keep_alive=keep_alive).is_unload


def test_only_what_makes_text_can_be_asked_to_unload() -> None:
    assert not parse("/api/embed", input=[], keep_alive=0).is_unload


def test_an_empty_prompt_on_an_openai_route_is_no_load() -> None:
    request = parse("/v1/completions", prompt="", stream=True)

    assert not request.is_load_only
    assert request.stream


def test_keep_alive_zero_with_a_prompt_does_not_unload() -> None:
    assert not parse("/api/chat", keep_alive=0).is_unload


@pytest.mark.parametrize("path", ROUTES)
def test_a_parsed_request_shows_no_prompt(path: str) -> None:
    assert "hello" not in repr(parse(path))


def test_an_accepted_body_is_rebuilt_to_the_same_body_again() -> None:
    once = forwarded(parse("/api/chat", options={"seed": 1}, stream=False))

    assert forwarded(parse_request(ROUTES["/api/chat"], once)) == once


def test_a_policed_field_shows_nothing_of_its_value() -> None:
    assert repr(parse("/api/generate", system="secret").asked) == "{'system': Asked(...)}"


def test_a_request_that_was_rebuilt_keeps_none_of_the_clients_bytes() -> None:
    request = parse("/api/chat", options={"seed": 1, "num_ctx": 2}, think=True)
    left = request.without_content()

    assert (left.fields, left.options, left.asked) == ({}, None, {})
    assert (left.model, left.prompt, left.spec) == (request.model, request.prompt, request.spec)
