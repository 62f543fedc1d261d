"""The output cap: what clients name, what policies say, what backends are told."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import BadRequest
from domain.option_rules import MAX_OUTPUT_TOKENS
from domain.policies import Policy
from domain.requests import rebuild
from tests.support.counts import count
from tests.support.requests import DEFAULT_CAP, NATIVE, parse, ruled, sent

GENERATING = ("/api/generate", "/api/chat", "/v1/chat/completions", "/v1/completions")
numbers = st.none() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)


def sent_cap(rules: Policy, path: str, named: object) -> Any:
    """Return the cap a backend is told of a request that names this one, in the words of its family."""
    if path.startswith("/api/"):
        return sent(rules, path, options={"num_predict": named})["options"]["num_predict"]
    return sent(rules, path, max_tokens=named)["max_tokens"]


@pytest.mark.parametrize("path", GENERATING)
@pytest.mark.parametrize("named", [None, 0, -1, -2])
def test_the_default_cap_stands_in_where_a_client_names_none(path: str, named: object) -> None:
    assert sent_cap(ruled(), path, named) == DEFAULT_CAP


@pytest.mark.parametrize("path", GENERATING)
def test_a_request_without_any_option_is_capped(path: str) -> None:
    body = sent(ruled(), path)

    assert (body["options"]["num_predict"] if path.startswith("/api/") else body["max_tokens"]) == DEFAULT_CAP


@pytest.mark.parametrize("path", GENERATING)
@pytest.mark.parametrize(("named", "forwarded"), [(1, 1), (99, 99), (5000, 5000), (10**9, MAX_OUTPUT_TOKENS)])
def test_without_a_maximum_the_clients_cap_stands(path: str, named: int, forwarded: int) -> None:
    assert sent_cap(ruled(), path, named) == forwarded


@pytest.mark.parametrize("path", GENERATING)
@pytest.mark.parametrize(
    ("rule", "named", "forwarded"),
    [
        ({"action": "clamp", "max": 50}, None, 50),
        ({"action": "clamp", "max": 50}, 10, 10),
        ({"action": "clamp", "max": 50}, 51, 50),
        ({"action": "clamp", "max": 50}, 10**9, 50),
        ({"action": "clamp", "max": 50, "value": 20}, None, 20),
        ({"action": "clamp", "max": 50, "value": 20}, -1, 20),
        ({"action": "clamp", "max": 50, "value": 20}, 30, 30),
        ({"action": "clamp", "max": 5000}, None, DEFAULT_CAP),
        ({"action": "clamp", "value": 200}, None, 200),
        ({"action": "clamp", "value": 200}, 300, 300),
        ({"action": "set", "value": 30}, None, 30),
        ({"action": "set", "value": 30}, 500, 30),
        ({"action": "strip"}, 500, DEFAULT_CAP),
        ({"action": "allow"}, 500, 500),
        ({"action": "allow"}, 0, DEFAULT_CAP),
        ({"action": "reject"}, None, DEFAULT_CAP),
        ({"action": "reject"}, -1, DEFAULT_CAP),
    ],
)
def test_a_rule_for_the_output_cap_holds_on_every_route(
    path: str, rule: dict[str, Any], named: object, forwarded: int
) -> None:
    assert sent_cap(ruled(num_predict=rule), path, named) == forwarded


@pytest.mark.parametrize(
    ("fields", "forwarded"),
    [
        ({"max_completion_tokens": 10}, 10),
        ({"max_completion_tokens": 99}, 50),
        ({"max_completion_tokens": 10, "max_tokens": None}, 10),
        ({"max_completion_tokens": 10, "max_tokens": 20}, 20),
        ({"max_completion_tokens": 0}, 50),
    ],
)
def test_the_newer_openai_word_is_translated(fields: dict[str, object], forwarded: int) -> None:
    body = sent(ruled(num_predict={"action": "clamp", "max": 50}), "/v1/chat/completions", **fields)

    assert body["max_tokens"] == forwarded
    assert "max_completion_tokens" not in body


@pytest.mark.parametrize(
    ("options", "forwarded"), [({"num_predict": 0.5}, DEFAULT_CAP), ({"num_predict": 10.9}, 10)]
)
def test_a_fraction_of_a_token_is_none(options: object, forwarded: int) -> None:
    assert sent(ruled(), "/api/chat", options=options)["options"]["num_predict"] == forwarded


@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings", "/v1/embeddings"])
def test_embeddings_have_no_output_to_cap(path: str) -> None:
    rules = ruled(num_predict={"action": "clamp", "max": 50})
    request = parse(path, options={"num_predict": 5}) if path in NATIVE else parse(path)

    assert rules.apply(request).output_cap is None
    assert not {"options", "max_tokens"} & json.loads(rebuild(request, "m", rules.apply(request))).keys()


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        ("/api/chat", {"options": {"num_predict": 5}}, "num_predict"),
        ("/v1/completions", {"max_tokens": 5}, "max_tokens"),
    ],
)
def test_a_rejected_output_cap_is_named_in_the_clients_words(
    path: str, fields: dict[str, object], name: str
) -> None:
    with pytest.raises(BadRequest, match=f"'{name}'"):
        ruled(num_predict={"action": "reject"}).apply(parse(path, **fields))


@given(
    st.integers(1, MAX_OUTPUT_TOKENS),
    st.none() | st.integers(1, MAX_OUTPUT_TOKENS),
    numbers,
    st.sampled_from(("/api/generate", "/api/chat")),
)
@settings(max_examples=count(300, 50_000))
def test_the_cap_that_is_sent_is_positive_and_at_most_the_maximum(
    highest: int, value: int | None, named: object, path: str
) -> None:
    default = {} if value is None else {"value": min(value, highest)}
    cap = sent_cap(ruled(num_predict={"action": "clamp", "max": highest, **default}), path, named)

    assert 1 <= cap <= highest
    if isinstance(named, int) and named > 0:
        assert cap == min(named, highest)
