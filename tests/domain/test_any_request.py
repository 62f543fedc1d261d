"""Whatever a request holds: one meaning, or a refusal."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import BadRequest
from domain.requests import parse_request
from tests.support.counts import count
from tests.support.go_json import read_request
from tests.support.requests import DEFAULT_CAP, PROMPTS, ROUTES, forwarded

pytestmark = pytest.mark.parser

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
                "num_predict": DEFAULT_CAP,
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
