"""What option policies make of requests."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import BadRequest
from domain.keep_alive import keep_alive_ns
from domain.model_names import CanonicalName, canonical
from domain.option_rules import FIELDS, MAX_COUNT, MAX_OUTPUT_TOKENS
from domain.policies import MAX_COMPILED_MODELS, ModelPolicies
from domain.requests import parse_request, rebuild
from domain.values import OptionPolicies, OptionPolicy, OptionRule, PolicyAction
from tests.support.counts import count
from tests.support.requests import DEFAULT_CAP, NATIVE, ROUTES, parse, ruled, sent

LOAD_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")


# -- safe defaults


@pytest.mark.parametrize("path", NATIVE)
@pytest.mark.parametrize("keep_alive", [-1, 0, "24h", 99_999, "5m", None])
def test_by_default_nobody_says_how_long_a_model_stays(path: str, keep_alive: object) -> None:
    assert "keep_alive" not in sent(ruled(), path, keep_alive=keep_alive)


@pytest.mark.parametrize("path", NATIVE)
@pytest.mark.parametrize("option", LOAD_OPTIONS)
def test_by_default_nobody_says_how_a_model_is_loaded(path: str, option: str) -> None:
    request = parse(path, options={option: 1, "temperature": 0.5})
    policed = ruled().apply(request)

    assert option not in json.loads(rebuild(request, "m", policed))["options"]
    assert policed.stripped == 1


@pytest.mark.parametrize(("field", "value"), [("shift", False), ("template", "{{ .System }}")])
def test_by_default_shift_and_template_are_the_operators(field: str, value: object) -> None:
    assert field not in sent(ruled(), "/api/generate", **{field: value})


@pytest.mark.parametrize(
    ("field", "value"), [("raw", True), ("system", "be brief"), ("context", [1, 2]), ("think", False)]
)
def test_by_default_the_rest_is_the_clients(field: str, value: object) -> None:
    assert sent(ruled(), "/api/generate", **{field: value})[field] == value


def test_an_unload_is_only_forwarded_where_keep_alive_is_allowed() -> None:
    rules: dict[str, dict[str, Any]] = {
        "allow": {"action": "allow"},
        "strip": {"action": "strip"},
        "clamp": {"action": "clamp", "min": "1m", "max": "2m"},
        "set": {"action": "set", "value": -1},
    }

    assert not ruled().forwards_unload
    assert [name for name, rule in rules.items() if ruled(keep_alive=rule).forwards_unload] == ["allow"]


# -- rules


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        ("/api/chat", {"keep_alive": 0}, "keep_alive"),
        ("/api/embed", {"keep_alive": "5m"}, "keep_alive"),
        ("/api/chat", {"options": {"num_ctx": 4096}}, "num_ctx"),
        ("/api/chat", {"options": {"use_mmap": False}}, "use_mmap"),
        ("/api/chat", {"shift": False}, "shift"),
        ("/api/generate", {"raw": True}, "raw"),
        ("/api/generate", {"template": "x"}, "template"),
        ("/api/generate", {"system": "x"}, "system"),
        ("/api/generate", {"context": [1]}, "context"),
        ("/api/chat", {"think": False}, "think"),
        ("/v1/chat/completions", {"reasoning_effort": "high"}, "reasoning_effort"),
        ("/v1/chat/completions", {"reasoning": {"effort": "high"}}, "reasoning"),
    ],
)
def test_a_rejected_field_is_named(path: str, fields: dict[str, object], name: str) -> None:
    rules = ruled(**{field: {"action": "reject"} for field in FIELDS})

    with pytest.raises(BadRequest, match=f"'{name}'"):
        rules.apply(parse(path, **fields))


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        *((path, {}) for path in ROUTES),
        ("/api/generate", {"raw": False, "system": "", "template": "", "context": [], "think": None}),
        ("/api/chat", {"keep_alive": None, "options": {"num_ctx": None}}),
        ("/v1/chat/completions", {"reasoning_effort": "", "reasoning": None}),
    ],
)
def test_a_field_that_says_nothing_is_not_rejected(path: str, fields: dict[str, object]) -> None:
    rules = ruled(**{field: {"action": "reject"} for field in FIELDS})

    assert rules.apply(parse(path, **fields)).stripped == 0


@pytest.mark.parametrize(
    ("named", "forwarded"),
    [
        (None, 4096),
        (1, 2048),
        (2048, 2048),
        (5000, 5000),
        (5000.7, 5000),
        (8192, 8192),
        (1e300, 8192),
        (0, 4096),
        (-1, 4096),
    ],
)
def test_a_clamped_number_stays_within_bounds(named: object, forwarded: int) -> None:
    rules = ruled(num_ctx={"action": "clamp", "min": 2048, "max": 8192, "value": 4096})

    assert sent(rules, "/api/chat", options={"num_ctx": named})["options"]["num_ctx"] == forwarded


@pytest.mark.parametrize(
    ("bound", "named", "forwarded"),
    [
        ({"max": 20}, 10, 10),
        ({"max": 20}, 30, 20),
        ({"min": 20}, 30, 30),
        ({"min": 20}, 10, 20),
        ({"min": 20}, 1e300, MAX_COUNT),
    ],
)
def test_a_number_may_be_clamped_on_one_side(bound: dict[str, int], named: float, forwarded: int) -> None:
    rules = ruled(num_gpu={"action": "clamp", **bound})

    assert sent(rules, "/api/chat", options={"num_gpu": named})["options"]["num_gpu"] == forwarded


def test_a_clamp_is_not_dodged_by_leaving_the_number_to_ollama() -> None:
    rules = ruled(num_gpu={"action": "clamp", "max": 20})

    assert "num_gpu" not in sent(rules, "/api/chat", options={"num_gpu": -1})["options"]


@pytest.mark.parametrize("value", ["4096", True, [], {}])
def test_a_clamped_number_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(BadRequest, match="num_ctx"):
        ruled(num_ctx={"action": "clamp", "max": 8192}).apply(parse("/api/chat", options={"num_ctx": value}))


@pytest.mark.parametrize(
    ("named", "forwarded"),
    [
        (None, "10m"),
        (0, 300),
        ("1s", 300),
        (300, 300),
        ("5m", "5m"),
        ("20m", "20m"),
        ("60m", "60m"),
        ("24h", "1h"),
        (-1, "1h"),
        (1e300, "1h"),
    ],
)
def test_a_clamped_duration_neither_unloads_nor_pins(named: object, forwarded: object) -> None:
    rules = ruled(keep_alive={"action": "clamp", "min": 300, "max": "1h", "value": "10m"})

    assert sent(rules, "/api/chat", keep_alive=named)["keep_alive"] == forwarded


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
def test_openai_routes_never_carry_ollamas_own_fields(path: str) -> None:
    rules = ruled(
        keep_alive={"action": "set", "value": "5m"},
        num_ctx={"action": "set", "value": 8192},
        system={"action": "set", "value": "x"},
    )

    assert not {"keep_alive", "options", "num_ctx", "system"} & sent(rules, path, keep_alive=-1).keys()


@pytest.mark.parametrize("asked", [{}, {"options": {"num_ctx": 1, "seed": 7}}, {"options": {"seed": 7}}])
def test_a_set_value_takes_the_clients_place_and_every_clients(asked: dict[str, object]) -> None:
    body = sent(ruled(num_ctx={"action": "set", "value": 8192}), "/api/chat", **asked)

    assert body["options"]["num_ctx"] == 8192
    assert ("seed" in body["options"]) is bool(asked and "seed" in str(asked))


def test_a_set_text_goes_only_where_ollama_reads_it() -> None:
    rules = ruled(system={"action": "set", "value": "be kind"})

    assert sent(rules, "/api/generate", system="be rude")["system"] == "be kind"
    assert "system" not in sent(rules, "/api/chat")


@pytest.mark.parametrize(
    ("value", "native", "openai"),
    [(True, True, None), (False, False, "none"), ("low", "low", "low"), ("max", "max", "high")],
)
def test_thinking_is_set_in_the_words_of_each_family(value: object, native: object, openai: object) -> None:
    rules = ruled(think={"action": "set", "value": value})
    body = sent(rules, "/v1/chat/completions", reasoning_effort="medium", reasoning={"effort": "medium"})

    assert sent(rules, "/api/chat", think="medium")["think"] == native
    assert "reasoning" not in body
    assert body.get("reasoning_effort") == openai


def test_stripped_thinking_is_stripped_in_both_families() -> None:
    rules = ruled(think={"action": "strip"})

    assert "think" not in sent(rules, "/api/chat", think=True)
    assert (
        not {"reasoning", "reasoning_effort"}
        & sent(rules, "/v1/chat/completions", reasoning_effort="high", reasoning={"effort": "high"}).keys()
    )


def test_an_allowed_field_travels_as_the_clients_bytes() -> None:
    rules = ruled(num_ctx={"action": "allow"}, keep_alive={"action": "allow"})
    body = b'{"model":"m","input":"x","keep_alive": 1.50,"options":{"num_ctx": 4.0e3}}'
    request = parse_request(ROUTES["/api/embed"], body)

    rebuilt = rebuild(request, "m", rules.apply(request))
    assert b'"keep_alive":1.50' in rebuilt
    assert b'"num_ctx":4.0e3' in rebuilt


def test_only_what_is_not_sent_counts_as_stripped() -> None:
    rules = ruled(num_ctx={"action": "allow"}, keep_alive={"action": "allow"})
    request = parse(
        "/api/chat", keep_alive="5m", think=True, shift=True, options={"num_ctx": 1, "num_gpu": 1}
    )

    assert rules.apply(request).stripped == 2


def test_a_value_without_a_place_on_a_route_keeps_no_other_one_away() -> None:
    rules = ruled(keep_alive={"action": "set", "value": "5m"}, think={"action": "set", "value": "low"})

    assert sent(rules, "/v1/chat/completions")["reasoning_effort"] == "low"


def test_what_a_policy_decided_shows_no_prompt() -> None:
    request = parse("/api/generate", system="secret words")

    assert "secret" not in repr(request) + repr(request.asked) + repr(ruled().apply(request))


# -- levels

A_FIELD = "num_ctx"
PATTERNS = ("*", "l*", "llama3*", "llama3:latest")
LEVELS = ("tenant", *(f"tenant {p}" for p in PATTERNS), "key", *(f"key {p}" for p in PATTERNS))
"""Least specific first."""


def policies(by_level: dict[str, OptionPolicy]) -> OptionPolicies:
    def grants(holder: str) -> dict[str, OptionPolicy]:
        return {
            level.split()[1]: policy for level, policy in by_level.items() if level.startswith(f"{holder} ")
        }

    return OptionPolicies(
        tenant=by_level.get("tenant", {}),
        tenant_grants=grants("tenant"),
        key=by_level.get("key", {}),
        key_grants=grants("key"),
    )


def cap_of(levels: OptionPolicies, model: str) -> int | None:
    name = canonical(model)
    assert name is not None
    return ModelPolicies(levels, default_output_cap=DEFAULT_CAP).of(name).apply(parse("/api/chat")).output_cap


@given(st.dictionaries(st.sampled_from(LEVELS), st.integers(1, MAX_OUTPUT_TOKENS)), st.randoms())
@settings(max_examples=count(200, 20_000))
def test_the_most_specific_level_wins(values: dict[str, int], order: Any) -> None:
    levels = list(values)
    order.shuffle(levels)
    by_level: dict[str, OptionPolicy] = {
        level: {"num_predict": OptionRule(PolicyAction.SET, value=values[level])} for level in levels
    }

    expected = next((values[level] for level in reversed(LEVELS) if level in values), DEFAULT_CAP)
    assert cap_of(policies(by_level), "llama3") == expected


@pytest.mark.parametrize(
    ("wider", "closer"),
    [
        ("llam??:8b", "llama*:8b"),
        ("llama3:8b*", "llama3:8b"),
        ("llama3:?b", "llama3:8b"),
    ],
)
def test_names_rule_over_globs_and_more_letters_over_fewer(wider: str, closer: str) -> None:
    rules: dict[str, OptionPolicy] = {
        f"key {pattern}": {"num_predict": OptionRule(PolicyAction.SET, value=value)}
        for pattern, value in ((closer, 2), (wider, 1))
    }

    assert cap_of(policies(rules), "llama3:8b") == 2


def test_each_field_is_decided_by_itself() -> None:
    levels = policies(
        {
            "tenant": {"num_predict": OptionRule(PolicyAction.SET, value=5)},
            "key llama3*": {"think": OptionRule(PolicyAction.STRIP)},
        }
    )
    name = canonical("llama3")
    assert name is not None
    rules = ModelPolicies(levels, default_output_cap=DEFAULT_CAP).of(name)

    body = sent(rules, "/api/chat", think=True)
    assert body["options"] == {"num_predict": 5}
    assert "think" not in body


def test_a_grants_policy_concerns_the_models_it_names_only() -> None:
    levels = policies({"tenant llama3*": {"num_predict": OptionRule(PolicyAction.SET, value=5)}})

    assert [cap_of(levels, "llama3:8b"), cap_of(levels, "qwen3")] == [5, DEFAULT_CAP]


def test_a_policy_is_worked_out_once_per_model() -> None:
    compiled = ModelPolicies(policies({"key": {}}), default_output_cap=DEFAULT_CAP)
    spellings = canonical("llama3"), canonical("LLAMA3:latest")
    assert spellings[0] is not None
    assert spellings[1] is not None

    assert compiled.of(spellings[0]) is compiled.of(spellings[1])


def test_the_policies_of_a_thousand_models_are_kept_at_most() -> None:
    compiled = ModelPolicies(policies({}), default_output_cap=DEFAULT_CAP)
    names = [CanonicalName(f"m:{number}", "m", needs_echo=False) for number in range(MAX_COMPILED_MODELS + 1)]
    first = compiled.of(names[0])
    for name in names[1:-1]:
        compiled.of(name)
    assert compiled.of(names[0]) is first

    compiled.of(names[-1])

    assert compiled.of(names[0]) is not first


# -- whatever is asked and whatever is ruled

bounds = st.tuples(st.integers(1, MAX_COUNT), st.integers(1, MAX_COUNT)).map(sorted)
numbers = st.none() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)


@given(bounds, numbers)
@settings(max_examples=count(300, 50_000))
def test_a_clamped_number_that_is_sent_lies_within_bounds(within: list[int], named: object) -> None:
    low, high = within
    rules = ruled(num_ctx={"action": "clamp", "min": low, "max": high})
    options = sent(rules, "/api/generate", options={"num_ctx": named})["options"]

    assert low <= options.get("num_ctx", low) <= high


@given(bounds, numbers)
@settings(max_examples=count(300, 50_000))
def test_a_clamped_duration_that_is_sent_lies_within_bounds(within: list[int], named: object) -> None:
    low, high = within
    rules = ruled(keep_alive={"action": "clamp", "min": f"{low}ms", "max": f"{high}ms"})
    forwarded = keep_alive_ns(sent(rules, "/api/generate", keep_alive=named).get("keep_alive"))

    assert forwarded is None or low * 1_000_000 <= forwarded <= high * 1_000_000
