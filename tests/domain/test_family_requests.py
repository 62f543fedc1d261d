"""What is particular to requests of the Responses API and of Anthropic's."""

import json
from typing import Any

import pytest

from domain.errors import BadRequest
from domain.option_rules import checked_rule
from domain.policies import Policy
from domain.prompts import Prompt
from domain.requests import ParsedRequest, parse_count, parse_request, rebuild
from domain.reservations import counted
from domain.routes import MESSAGES_PATH, RESPONSES_PATH, inference_routes
from domain.values import ApiFamily

ROUTES = inference_routes()
DEFAULT_CAP = 100
NO_POLICY = Policy({}, default_output_cap=DEFAULT_CAP)
TURN = {"role": "user", "content": "hello"}
MINIMAL: dict[str, dict[str, object]] = {
    RESPONSES_PATH: {"input": "hello"},
    MESSAGES_PATH: {"messages": [TURN], "max_tokens": 50},
}
both = pytest.mark.parametrize("path", list(MINIMAL))


def parse(path: str, **fields: object) -> ParsedRequest:
    return parse_request(ROUTES[path], json.dumps({"model": "m", **MINIMAL[path], **fields}).encode())


def sent(path: str, policy: Policy = NO_POLICY, **fields: object) -> Any:
    request = parse(path, **fields)
    return json.loads(rebuild(request, "m", policy.apply(request)))


def ruled(**rules: dict[str, Any]) -> Policy:
    return Policy(
        {field: checked_rule(field, rule) for field, rule in rules.items()}, default_output_cap=DEFAULT_CAP
    )


def test_the_routes_speak_their_own_families() -> None:
    assert [ROUTES[path].family for path in MINIMAL] == [ApiFamily.RESPONSES, ApiFamily.ANTHROPIC]


FORWARDED: dict[str, dict[str, Any]] = {
    RESPONSES_PATH: {
        "instructions": "be brief",
        "tools": [{"type": "function", "name": "f", "parameters": {}}],
        "temperature": 0.5,
        "top_p": 0.9,
        "text": {"format": {"type": "json_schema", "name": "x", "schema": {}}},
        "truncation": "auto",
        "reasoning": {"effort": "low"},
    },
    MESSAGES_PATH: {
        "system": [{"type": "text", "text": "be brief"}],
        "tools": [{"name": "f", "input_schema": {}}],
        "stop_sequences": ["x"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "output_config": {"effort": "low"},
    },
}


@both
@pytest.mark.parametrize("stream", [True, False])
def test_what_ollama_honours_is_forwarded(path: str, *, stream: bool) -> None:
    body = sent(path, stream=stream, **FORWARDED[path])

    assert body.items() >= {**FORWARDED[path], "stream": stream}.items()
    assert "stream_options" not in body


IGNORED: dict[str, dict[str, Any]] = {
    RESPONSES_PATH: {
        "store": True,
        "include": ["reasoning.encrypted_content"],
        "metadata": {"a": "b"},
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "max_completion_tokens": 5,
    },
    MESSAGES_PATH: {"tool_choice": {"type": "auto"}, "metadata": {"user_id": "u"}, "service_tier": "auto"},
}


@both
def test_what_ollama_ignores_is_dropped_and_counted(path: str) -> None:
    assert parse(path, **IGNORED[path]).dropped == len(IGNORED[path])
    assert not IGNORED[path].keys() & sent(path, **IGNORED[path]).keys()


@pytest.mark.parametrize(
    "field",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"conversation": {"id": "conv_1"}},
        {"background": True},
        {"prompt": {"id": "pmpt_1"}},
    ],
)
def test_what_leans_on_a_kept_response_is_refused_by_name(field: dict[str, object]) -> None:
    (name,) = field

    with pytest.raises(BadRequest, match=f"'{name}' is not supported: no .* kept here"):
        parse(RESPONSES_PATH, **field)


def test_a_stateful_field_that_says_nothing_is_no_matter() -> None:
    fields: dict[str, Any] = {
        "previous_response_id": None,
        "conversation": None,
        "background": False,
        "prompt": None,
    }

    assert not fields.keys() & sent(RESPONSES_PATH, **fields).keys()


# tools that a backend would work itself


@both
@pytest.mark.parametrize(
    "tool",
    [
        {"type": "web_search"},
        {"type": "web_search_preview"},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
        {"type": "web_fetch_20250910", "name": "web_fetch"},
        {"Type": "web_search"},
        {"type": "function", "TYPE": "web_search"},
    ],
)
def test_a_built_in_web_tool_is_seen_and_travels(path: str, tool: dict[str, object]) -> None:
    tools = [{"type": "function", "name": "f"}, tool]

    assert parse(path, tools=tools).searches_web
    assert sent(path, tools=tools)["tools"] == tools


@both
@pytest.mark.parametrize("tool", [{"type": "function", "name": "web_search"}, {"name": "web_fetch"}, 1, None])
def test_a_function_of_the_client_s_may_have_any_name(path: str, tool: object) -> None:
    assert not parse(path, tools=[tool]).searches_web
    assert sent(path, tools=[tool])["tools"] == [tool]


# the cap on output


@pytest.mark.parametrize(("named", "cap"), [(7, 7), (10**9, 10_000_000), (0, 100), (-1, 100), (None, 100)])
def test_a_response_has_a_positive_cap(named: object, cap: int) -> None:
    assert sent(RESPONSES_PATH, max_output_tokens=named)["max_output_tokens"] == cap


@pytest.mark.parametrize(
    ("path", "name"), [(RESPONSES_PATH, "max_output_tokens"), (MESSAGES_PATH, "max_tokens")]
)
def test_a_policy_caps_output_in_every_family(path: str, name: str) -> None:
    policy = ruled(num_predict={"action": "clamp", "max": 20})

    assert [sent(path, policy, **{name: cap})[name] for cap in (10, 1000)] == [10, 20]


@pytest.mark.parametrize("named", [None, 0, -5])
def test_a_message_must_name_its_cap(named: object) -> None:
    with pytest.raises(BadRequest, match="'max_tokens' is required"):
        parse(MESSAGES_PATH, max_tokens=named)


@pytest.mark.parametrize(("named", "cap"), [(10, 10), (1000, DEFAULT_CAP)])
def test_where_no_cap_may_be_named_a_message_gets_at_most_the_default(named: int, cap: int) -> None:
    assert sent(MESSAGES_PATH, ruled(num_predict={"action": "reject"}), max_tokens=named)["max_tokens"] == cap


# thinking is a matter of policy

THINKING: list[tuple[str, dict[str, object]]] = [
    (RESPONSES_PATH, {"reasoning": {"effort": "high", "summary": "auto"}}),
    (MESSAGES_PATH, {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
    (MESSAGES_PATH, {"output_config": {"effort": "high"}}),
]


@pytest.mark.parametrize(("path", "field"), THINKING)
def test_thinking_can_be_stripped(path: str, field: dict[str, object]) -> None:
    assert not field.keys() & sent(path, ruled(think={"action": "strip"}), **field).keys()


@pytest.mark.parametrize(("path", "field"), THINKING)
def test_thinking_can_be_rejected_by_name(path: str, field: dict[str, object]) -> None:
    (name,) = field

    with pytest.raises(BadRequest, match=f"'{name}'"):
        sent(path, ruled(think={"action": "reject"}), **field)


@pytest.mark.parametrize(
    ("value", "reasoning", "message"),
    [
        (True, {}, {}),
        (False, {"reasoning": {"effort": "none"}}, {"thinking": {"type": "disabled"}}),
        ("low", {"reasoning": {"effort": "low"}}, {"output_config": {"effort": "low"}}),
        ("max", {"reasoning": {"effort": "high"}}, {"output_config": {"effort": "max"}}),
    ],
)
def test_a_policy_s_own_thinking_is_said_in_the_family_s_words(
    value: object, reasoning: dict[str, object], message: dict[str, object]
) -> None:
    policy = ruled(think={"action": "set", "value": value})
    words = {"reasoning", "thinking", "output_config"}
    for path, wanted in ((RESPONSES_PATH, reasoning), (MESSAGES_PATH, message)):
        asked = {name: part for where, field in THINKING if where == path for name, part in field.items()}

        assert {name: part for name, part in sent(path, policy, **asked).items() if name in words} == wanted


# what the prompt is


def measured(path: str, **fields: object) -> Prompt:
    return parse(path, **fields).prompt


IMAGE = "A" * 9_999
TOOLS = [{"name": "f"}]
TOOLS_JSON = len(json.dumps(TOOLS))


@pytest.mark.parametrize(
    ("fields", "prompt_bytes", "images", "messages"),
    [
        ({"input": "12345"}, 5, 0, 1),
        ({"input": "12345", "instructions": "123"}, 8, 0, 2),
        ({"input": [{"role": "user", "content": "12345"}, {"role": "user", "content": "1"}]}, 6, 0, 2),
        (
            {
                "input": [
                    {"type": "message", "Role": "user", "Content": [{"type": "input_text", "text": "12"}]}
                ]
            },
            6,
            0,
            1,
        ),
        (
            {
                "input": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "input_text", "text": "12"},
                            {"type": "input_image", "detail": "auto", "image_url": f"data:;base64,{IMAGE}"},
                        ],
                    }
                ]
            },
            2,
            1,
            1,
        ),
        (
            {
                "input": [
                    {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "call_1", "output": "123"},
                ]
            },
            6,
            0,
            2,
        ),
        ({"input": "1", "tools": TOOLS}, 1 + TOOLS_JSON, 0, 1),
    ],
)
def test_a_response_s_prompt_is_measured(
    fields: dict[str, object], prompt_bytes: int, images: int, messages: int
) -> None:
    prompt = measured(RESPONSES_PATH, **fields)

    assert (prompt.prompt_bytes, prompt.images, prompt.messages) == (prompt_bytes, images, messages)
    assert prompt.text_bytes >= prompt.prompt_bytes


def block(**fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": [fields]}]}


SOURCE = {"type": "base64", "media_type": "image/png", "data": IMAGE}


@pytest.mark.parametrize(
    ("fields", "prompt_bytes", "images", "messages"),
    [
        ({"messages": [{"role": "user", "content": "12345"}]}, 5, 0, 1),
        ({"messages": [{"role": "user", "content": "é你"}]}, 5, 0, 1),
        ({"system": "123", "messages": [{"role": "user", "content": "12345"}]}, 8, 0, 2),
        ({"system": [{"type": "text", "text": "123"}], "messages": [{"content": "1"}]}, 4, 0, 2),
        (block(type="text", text="12345"), 5, 0, 1),
        (block(Type="text", Text="12345"), 5, 0, 1),
        (block(type="image", source=SOURCE), 0, 1, 1),
        (block(type="image", Source=SOURCE), 0, 1, 1),
        (block(type="thinking", thinking="123", signature="x" * 500), 3, 0, 1),
        (block(type="tool_use", id="t", name="f", input={"a": 1}), 1 + 7, 0, 1),
        (block(type="tool_result", tool_use_id="t", content="123"), 3, 0, 2),
        (block(type="tool_result", tool_use_id="t", content=[{"type": "image", "source": SOURCE}]), 0, 1, 2),
        (block(type="web_search_tool_result", content={"image_url": "1234"}), 20, 0, 1),
        (block(type="document", source={"type": "text", "data": "1234"}), 29, 0, 1),
        ({"messages": [{"content": "1"}], "tools": TOOLS}, 1 + TOOLS_JSON, 0, 1),
    ],
)
def test_a_message_s_prompt_is_measured(
    fields: dict[str, object], prompt_bytes: int, images: int, messages: int
) -> None:
    prompt = measured(MESSAGES_PATH, **fields)

    assert (prompt.prompt_bytes, prompt.images, prompt.messages) == (prompt_bytes, images, messages)
    assert prompt.text_bytes >= prompt.prompt_bytes


@pytest.mark.parametrize(
    ("path", "name"),
    [(RESPONSES_PATH, "text"), (MESSAGES_PATH, "output_config")],
)
def test_a_schema_is_reserved_for_but_is_no_prompt(path: str, name: str) -> None:
    plain, asked = measured(path), measured(path, **{name: {"format": {"schema": "x" * 500}}})

    assert asked.prompt_bytes == plain.prompt_bytes
    assert asked.text_bytes > plain.text_bytes + 500


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (RESPONSES_PATH, {"input": None}),
        (RESPONSES_PATH, {"input": 1}),
        (RESPONSES_PATH, {"input": ""}),
        (RESPONSES_PATH, {"input": []}),
        (RESPONSES_PATH, {"instructions": ["x"]}),
        (MESSAGES_PATH, {"messages": None}),
        (MESSAGES_PATH, {"messages": []}),
        (MESSAGES_PATH, {"messages": "hello"}),
        (MESSAGES_PATH, {"messages": ["hello"]}),
    ],
)
def test_a_prompt_of_another_type_is_refused(path: str, fields: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        parse(path, **fields)


def test_instructions_alone_are_a_prompt() -> None:
    assert not parse(RESPONSES_PATH, input="", instructions="say something").is_load_only


# counting without asking


def test_a_count_needs_no_cap_and_looks_at_no_tool() -> None:
    body = {"model": "m", "messages": [TURN], "tools": [{"type": "web_search_20250305"}]}

    model, prompt = parse_count(ROUTES[MESSAGES_PATH], json.dumps(body).encode())

    assert model == "m"
    assert prompt.prompt_bytes > len("hello")


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        (Prompt(prompt_bytes=5, images=0, is_empty=False, text_bytes=9, messages=1), 1 + 4),
        (Prompt(prompt_bytes=8, images=2, is_empty=False, text_bytes=9, messages=3), 2 + 12 + 2000),
        (Prompt(prompt_bytes=0, images=0, is_empty=False, text_bytes=0, messages=1), 4),
    ],
)
def test_an_estimate_counts_characters_turns_and_images(prompt: Prompt, tokens: int) -> None:
    assert counted(prompt, image_tokens=1000) == tokens
