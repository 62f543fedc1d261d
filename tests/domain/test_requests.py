import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import BadRequest
from domain.policies import Policy
from domain.requests import ParsedRequest, parse_request, rebuild
from domain.routes import inference_routes
from tests.support.counts import count
from tests.support.go_json import read_request

pytestmark = pytest.mark.parser

ROUTES = inference_routes()
STREAMING = (
    *("/api/generate", "/api/chat", "/v1/chat/completions", "/v1/completions"),
    *("/v1/responses", "/v1/messages"),
)
NATIVE = ("/api/generate", "/api/chat", "/api/embed", "/api/embeddings")
CAP = 100
POLICY = Policy({}, default_output_cap=CAP)
PROMPTS: dict[str, dict[str, object]] = {
    "/api/generate": {"prompt": "hello"},
    "/api/chat": {"messages": [{"role": "user", "content": "hello"}]},
    "/api/embed": {"input": "hello"},
    "/api/embeddings": {"prompt": "hello"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}]},
    "/v1/completions": {"prompt": "hello"},
    "/v1/embeddings": {"input": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 50},
}


def parse(path: str, **fields: object) -> ParsedRequest:
    return parse_request(ROUTES[path], json.dumps({"model": "m", **PROMPTS[path], **fields}).encode())


def forwarded(request: ParsedRequest, model: str = "m") -> bytes:
    """Return what a backend gets of a request where nobody has set a policy."""
    return rebuild(request, model, POLICY.apply(request))


def sent(path: str, **fields: object) -> Any:
    return json.loads(forwarded(parse(path, **fields)))


@pytest.mark.parametrize("path", ROUTES)
def test_a_plain_request_is_forwarded_with_the_forwarded_model(path: str) -> None:
    body = json.loads(forwarded(parse(path), "other"))

    assert body["model"] == "other"
    assert body.items() >= PROMPTS[path].items()


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": 1}, {"model": ["m"]}])
def test_a_request_without_a_model_name_is_refused(path: str, model: dict[str, object]) -> None:
    with pytest.raises(BadRequest, match="'model'"):
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
    assert sent(path)["stream"] is streams


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
    assert "stream" not in sent(path, stream=True)


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
    assert "_debug_render_only" not in sent(path, _debug_render_only=True)


def test_subtrees_travel_as_the_clients_bytes() -> None:
    messages = rb'[ {"role":"user", "content":"\u00e9 \/", "x" : 1.10e0} ]'
    request = parse_request(ROUTES["/api/chat"], b'{"messages":' + messages + b' ,"model":"m"}')

    assert b'"messages":' + messages in forwarded(request)


@pytest.mark.parametrize("path", NATIVE)
@pytest.mark.parametrize("keep_alive", [-1, 0, "24h", 99_999, "5m", None])
def test_keep_alive_is_never_forwarded(path: str, keep_alive: object) -> None:
    assert "keep_alive" not in sent(path, keep_alive=keep_alive)


@pytest.mark.parametrize("path", NATIVE)
@pytest.mark.parametrize("keep_alive", ["300", True, "x", []])
def test_a_keep_alive_that_ollama_refuses_is_refused(path: str, keep_alive: object) -> None:
    with pytest.raises(BadRequest, match="keep_alive"):
        parse(path, keep_alive=keep_alive)


@pytest.mark.parametrize("path", NATIVE)
@pytest.mark.parametrize(
    "option", ["num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"]
)
def test_an_option_that_reloads_the_model_is_dropped(path: str, option: str) -> None:
    request = parse(path, options={option: 1, "temperature": 0.5})

    assert option not in json.loads(forwarded(request))["options"]
    assert POLICY.apply(request).stripped == 1


def test_the_reloading_shift_is_dropped() -> None:
    assert "shift" not in sent("/api/chat", shift=False)


def test_options_keep_the_clients_bytes() -> None:
    request = parse_request(ROUTES["/api/embed"], b'{"model":"m","options":{ "temperature" : 0.70,"x":1}}')

    assert b'"options":{"temperature":0.70}' in forwarded(request)


@pytest.mark.parametrize("options", [None, {}, {"unknown": 1}])
def test_no_options_are_sent_where_none_are_left(options: object) -> None:
    assert "options" not in sent("/api/embed", options=options)


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


def test_empty_messages_are_refused_where_they_do_not_mean_a_load() -> None:
    with pytest.raises(BadRequest, match="at least one"):
        parse("/v1/chat/completions", messages=[])


@pytest.mark.parametrize(
    ("path", "fields", "prompt_bytes", "images"),
    [
        (
            "/api/generate",
            {"prompt": "12345", "system": "123", "suffix": "1", "images": ["AAAA", "BBBB"]},
            9,
            2,
        ),
        ("/api/chat", {"messages": [{"role": "user", "content": "12345", "images": ["A" * 999]}]}, 5, 1),
        ("/api/chat", {"messages": [{"Role": "", "Content": "12345", "Images": ["A" * 999]}]}, 5, 1),
        (
            "/api/chat",
            {"messages": [{"role": "assistant", "tool_calls": [{"f": {"arguments": {"a": "123"}}}]}]},
            3,
            0,
        ),
        ("/api/chat", {"messages": [{"content": "12"}], "tools": [{"a": "b"}]}, 14, 0),
        ("/api/embed", {"input": ["123", "45"]}, 5, 0),
        ("/api/embed", {"input": ["é", "你好"]}, 2 + 6, 0),
        ("/api/chat", {"messages": [{"content": "é你"}]}, 2 + 3, 0),
        ("/api/embed", {"input": "123"}, 3, 0),
        ("/v1/embeddings", {"input": ["123", "45"]}, 5, 0),
        ("/v1/completions", {"prompt": "123", "suffix": "4"}, 4, 0),
        (
            "/v1/chat/completions",
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "12345"},
                            {"type": "image_url", "image_url": {"url": "data:;base64," + "A" * 999}},
                        ],
                    }
                ]
            },
            5,
            1,
        ),
    ],
)
def test_a_prompt_is_measured_without_its_images(
    path: str, fields: dict[str, object], prompt_bytes: int, images: int
) -> None:
    prompt = parse(path, **fields).prompt

    assert (prompt.prompt_bytes, prompt.images) == (prompt_bytes, images)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/api/generate", {"prompt": ["a"]}),
        ("/api/generate", {"system": 1}),
        ("/v1/completions", {"prompt": ["a", "b"]}),
        ("/api/chat", {"messages": "hello"}),
        ("/api/chat", {"messages": ["hello"]}),
        ("/api/embed", {"input": [1, 2]}),
        ("/v1/embeddings", {"input": {"a": "b"}}),
    ],
)
def test_a_prompt_of_another_type_is_refused(path: str, fields: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        parse(path, **fields)


@pytest.mark.parametrize("path", ROUTES)
def test_a_parsed_request_shows_no_prompt(path: str) -> None:
    assert "hello" not in repr(parse(path))


def test_an_accepted_body_is_rebuilt_to_the_same_body_again() -> None:
    once = forwarded(parse("/api/chat", options={"seed": 1}, stream=False))

    assert forwarded(parse_request(ROUTES["/api/chat"], once)) == once


KEYS = st.sampled_from(
    (
        "model",
        "Model",
        "MODEL",
        "stream",
        "\u017ftream",
        "options",
        "option\u017f",
        "stream_options",
        "Stream_options",
        "messages",
        "keep_alive",
        "\u212aeep_alive",
        "extra",
    )
)
VALUES = st.sampled_from(
    (
        '"a"',
        '"b"',
        "null",
        "true",
        "false",
        "0",
        '"5m"',
        "[]",
        '[{"role":"user","content":"x"}]',
        '{"num_predict":7}',
        '{"num_predict":7,"num_predict":8}',
        '{"Num_Predict":9,"temperature":1}',
        '{"include_usage":true}',
        '{"Include_usage":true}',
        '{"include_usage":false,"include_usage":true}',
    )
)


WITH_OPTIONS = {
    "/api/chat": "options",
    "/v1/chat/completions": "stream_options",
    "/v1/responses": None,
    "/v1/messages": None,
}


@given(st.lists(st.tuples(KEYS, VALUES), max_size=5), st.sampled_from(("", " ", "{}", '{"model":"b"}', "x")))
@settings(max_examples=count(1_000, 1_000_000), deadline=None)
def test_what_is_authorised_is_what_go_would_run(pairs: list[tuple[str, str]], rest: str) -> None:
    prompt = [("messages", '[{"content":"x"}]'), ("input", '"x"'), ("max_tokens", "9")]
    members = [("model", '"a"'), *prompt, *pairs]
    body = (
        "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in members[len(pairs) % 2 :]) + "}" + rest
    ).encode()
    for path, options in WITH_OPTIONS.items():
        spec = ROUTES[path]
        try:
            request = parse_request(spec, body)
        except BadRequest:
            continue
        meant = read_request(body, options=options)
        run = read_request(forwarded(request, request.model), options=options)

        assert request.model == meant.model == run.model
        assert run.stream is request.stream
        if not request.is_load_only:
            assert request.stream is (spec.streams_by_default if meant.stream is None else meant.stream)
        if options == "options":
            assert run.options == {
                "num_predict": CAP,
                **{k: v for k, v in meant.options.items() if k in {"num_predict", "temperature"}},
            }
        elif options == "stream_options":
            assert request.wants_usage is (meant.include_usage and request.stream)
            assert run.include_usage is request.stream


@given(st.binary(max_size=80))
@settings(max_examples=count(300, 100_000), deadline=None)
def test_random_bytes_are_refused_and_nothing_else(body: bytes) -> None:
    for spec in ROUTES.values():
        with pytest.raises(BadRequest):
            parse_request(spec, body)


any_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(ROUTES)), st.data())
@settings(max_examples=count(200, 200_000), deadline=None)
def test_known_fields_of_any_type_are_read_or_refused_and_nothing_else(
    path: str, data: st.DataObject
) -> None:
    spec = ROUTES[path]
    fields = data.draw(st.dictionaries(st.sampled_from(sorted(spec.known.names)), any_json, max_size=6))
    body = json.dumps({**PROMPTS[path], **fields, "model": "m"}).encode()

    try:
        request = parse_request(spec, body)
    except BadRequest:
        return
    json.loads(forwarded(request))
