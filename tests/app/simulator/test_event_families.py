"""`/v1/responses` and `/v1/messages`: events in their order, documents, refusals and faults."""

import json
import re
from typing import Any

import httpx
import pytest

from tests.app.simulator.raw import CHAT, chunks_of, post, talk
from tests.support.ollama import SimulatedOllama

RESPONSE = {"model": "llama3.2", "input": "How are you?"}
MESSAGE = CHAT | {"max_tokens": 100}
PATHS = {"/v1/responses": RESPONSE, "/v1/messages": MESSAGE}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: dict[str, list[dict[str, Any]]] = {
    "/v1/responses": [{"type": "function", "name": "get_weather", "parameters": SCHEMA}],
    "/v1/messages": [{"name": "get_weather", "input_schema": SCHEMA}],
}
both = pytest.mark.parametrize("path", list(PATHS))


def events(text: str) -> list[Any]:
    """Return the data of all events; each names its type twice."""
    assert text.endswith("\n\n")
    found = []
    for event in text[:-2].split("\n\n"):
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def kinds(said: list[Any]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in said]


async def test_a_response_as_one_document(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/responses", json=RESPONSE | {"max_output_tokens": 2})

    said = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert re.fullmatch(r"resp_\d{1,6}", said["id"])
    assert (said["object"], said["status"], said["model"], said["error"]) == (
        "response",
        "completed",
        "llama3.2",
        None,
    )
    (message,) = said["output"]
    assert message["content"] == [{"type": "output_text", "text": "a is", "annotations": [], "logprobs": []}]
    assert said["usage"] == {
        "input_tokens": 3,
        "output_tokens": 2,
        "total_tokens": 5,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }


async def test_a_response_repeats_what_was_asked_for(api: httpx.AsyncClient) -> None:
    asked = {"instructions": "be brief", "temperature": 0.5, "tools": TOOLS["/v1/responses"]}

    said = (await api.post("/v1/responses", json=RESPONSE | asked)).json()

    assert said.items() >= {**asked, "store": False, "previous_response_id": None}.items()


async def test_the_events_of_a_response_come_in_order(api: httpx.AsyncClient) -> None:
    said = events(
        (await api.post("/v1/responses", json=RESPONSE | {"stream": True, "max_output_tokens": 2})).text
    )

    assert kinds(said) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in said] == list(range(len(said)))
    assert [event["delta"] for event in said if "delta" in event] == ["a", " is"]
    assert (said[0]["response"]["usage"], said[-1]["response"]["usage"]["output_tokens"]) == (None, 2)


async def test_thoughts_are_an_item_of_their_own(api: httpx.AsyncClient) -> None:
    said = events(
        (await api.post("/v1/responses", json=RESPONSE | {"stream": True, "model": "qwen3:8b"})).text
    )

    assert kinds(said)[2:4] == ["output_item.added", "reasoning_summary_text.delta"]
    assert [item["type"] for item in said[-1]["response"]["output"]] == ["reasoning", "message"]
    assert {event["output_index"] for event in said if "output_index" in event} == {0, 1}


async def test_a_response_may_be_told_not_to_think(api: httpx.AsyncClient) -> None:
    asked = RESPONSE | {"model": "qwen3:8b", "reasoning": {"effort": "none"}}

    assert [item["type"] for item in (await api.post("/v1/responses", json=asked)).json()["output"]] == [
        "message"
    ]


async def test_a_function_call_has_its_events(api: httpx.AsyncClient) -> None:
    asked = {"input": "use get_weather", "tools": TOOLS["/v1/responses"], "stream": True}

    said = events((await api.post("/v1/responses", json=RESPONSE | asked)).text)

    assert kinds(said)[2:] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    (call,) = said[-1]["response"]["output"]
    assert (call["type"], call["name"], call["arguments"]) == (
        "function_call",
        "get_weather",
        '{"city":"text"}',
    )


async def test_a_response_follows_a_schema(api: httpx.AsyncClient) -> None:
    wanted = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}

    said = (await api.post("/v1/responses", json=RESPONSE | {"text": wanted})).json()

    assert json.loads(said["output"][0]["content"][0]["text"]) == {"city": "text"}


async def test_a_message_as_one_document(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/messages", json=MESSAGE | {"max_tokens": 2})

    assert answer.headers["content-type"] == "application/json"
    assert re.fullmatch(
        r'\{"id":"msg_[0-9a-f]{24}","type":"message","role":"assistant","model":"llama3.2",'
        r'"content":\[\{"type":"text","text":"a is"\}\],"stop_reason":"max_tokens",'
        r'"usage":\{"input_tokens":3,"output_tokens":2\}\}\n',
        answer.text,
    )


async def test_the_events_of_a_message_come_in_order(api: httpx.AsyncClient) -> None:
    said = events((await api.post("/v1/messages", json=MESSAGE | {"stream": True, "max_tokens": 2})).text)

    assert kinds(said) == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert [event["delta"]["text"] for event in said[2:4]] == ["a", " is"]
    assert said[-2]["delta"] == {"stop_reason": "max_tokens"}


async def test_the_first_event_of_a_message_guesses_and_the_last_counts(api: httpx.AsyncClient) -> None:
    said = events((await api.post("/v1/messages", json=MESSAGE | {"stream": True, "max_tokens": 2})).text)

    assert said[0]["message"]["usage"]["input_tokens"] > 1000
    assert said[-2]["usage"] == {"input_tokens": 3, "output_tokens": 2}


async def test_thoughts_are_a_block_of_their_own(api: httpx.AsyncClient) -> None:
    said = events((await api.post("/v1/messages", json=MESSAGE | {"stream": True, "model": "qwen3:8b"})).text)

    starts = [event["content_block"]["type"] for event in said if event["type"] == "content_block_start"]
    assert starts == ["thinking", "text"]
    assert said[2]["delta"] == {"type": "thinking_delta", "thinking": "Let"}


@pytest.mark.parametrize("thinking", [{"type": "enabled", "budget_tokens": 1024}, {"type": "disabled"}])
async def test_whoever_cannot_think_is_not_refused_here(
    api: httpx.AsyncClient, thinking: dict[str, object]
) -> None:
    assert (await api.post("/v1/messages", json=MESSAGE | {"thinking": thinking})).status_code == 200


async def test_a_tool_call_is_a_block(api: httpx.AsyncClient) -> None:
    asked = {"messages": [{"role": "user", "content": "use get_weather"}], "tools": TOOLS["/v1/messages"]}

    whole = (await api.post("/v1/messages", json=MESSAGE | asked)).json()
    said = events((await api.post("/v1/messages", json=MESSAGE | asked | {"stream": True})).text)

    (block,) = whole["content"]
    assert (block["type"], block["name"], block["input"]) == ("tool_use", "get_weather", {"city": "text"})
    assert whole["stop_reason"] == said[-2]["delta"]["stop_reason"] == "tool_use"
    assert said[1]["content_block"]["input"] == {}
    assert json.loads(said[2]["delta"]["partial_json"]) == {"city": "text"}


async def test_blocks_and_system_prompts_cost_their_text(api: httpx.AsyncClient) -> None:
    content = [
        {"type": "text", "text": "x" * 40},
        {"type": "tool_result", "content": [{"type": "text", "text": "x" * 40}]},
    ]
    asked = {
        "messages": [{"role": "user", "content": content}],
        "system": [{"type": "text", "text": "x" * 40}],
    }

    assert (await api.post("/v1/messages", json=MESSAGE | asked)).json()["usage"]["input_tokens"] == 30


@both
async def test_what_closes_an_answer_leaves_in_one_chunk(ollama: SimulatedOllama, path: str) -> None:
    asked = PATHS[path] | {"stream": True, "max_tokens": 2, "max_output_tokens": 2}

    chunks = chunks_of(await talk(ollama.url, post(path, asked, "Connection: close")))

    assert len([chunk for chunk in chunks if chunk]) == 3


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"model": "no:1"}, 404, "model 'no:1' not found"),
        ({"model": ""}, 400, "model is required"),
        ({"reasoning": {"effort": "wild"}}, 400, 'invalid reasoning value: "wild"'),
        ({"reasoning": {"effort": "high"}}, 400, '"llama3.2" does not support thinking'),
        ({"input": 5}, 400, "input must be a string or array"),
        ({"input": [{}]}, 400, "input[0]: input item missing required 'type' field"),
        ({"input": [{"type": "item_reference"}]}, 400, 'input[0]: unknown input item type: "item_reference"'),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, 400, "file inputs are not"),
    ],
)
async def test_a_response_is_refused_with_an_error_object(
    api: httpx.AsyncClient, *, change: dict[str, object], status: int, message: str
) -> None:
    answer = await api.post("/v1/responses", json=RESPONSE | change)

    kind = "not_found_error" if status == 404 else "invalid_request_error"
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (status, kind)
    assert error["message"].startswith(message)


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"model": "no:1"}, 404, "model 'no:1' not found"),
        ({"model": ""}, 400, "model is required"),
        ({"messages": []}, 400, "messages is required"),
        ({"max_tokens": 0}, 400, "max_tokens is required and must be positive"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url"}}]}]},
            400,
            "invalid image source type: url. Only base64 images are supported.",
        ),
    ],
)
async def test_a_message_is_refused_with_anthropic_s_error(
    api: httpx.AsyncClient, *, change: dict[str, object], status: int, message: str
) -> None:
    answer = await api.post("/v1/messages", json=MESSAGE | change)

    kind = "not_found_error" if status == 404 else "invalid_request_error"
    said = answer.json()
    assert (answer.status_code, said["error"]) == (status, {"type": kind, "message": message})
    assert re.fullmatch(r"req_[0-9a-f]{24}", said["request_id"])


@both
async def test_an_error_in_mid_stream_is_swallowed(
    ollama: SimulatedOllama, api: httpx.AsyncClient, path: str
) -> None:
    await ollama.order("inband_error", after=2, body="it broke")

    text = (await api.post(path, json=PATHS[path] | {"stream": True})).text

    assert "it broke" not in text
    assert sum(event["type"].endswith("delta") for event in events(text)) == 2


@both
async def test_a_stream_may_begin_with_an_error(
    ollama: SimulatedOllama, api: httpx.AsyncClient, path: str
) -> None:
    await ollama.order("error_first", body="it broke")

    (said,) = events((await api.post(path, json=PATHS[path] | {"stream": True})).text)

    assert said["type"] in {"response.failed", "error"}
    assert "it broke" in json.dumps(said)


@both
async def test_status_faults_speak_the_family(
    ollama: SimulatedOllama, api: httpx.AsyncClient, path: str
) -> None:
    await ollama.order("busy")

    answer = await api.post(path, json=PATHS[path])

    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (
        503,
        "overloaded_error" if path == "/v1/messages" else "api_error",
    )
    assert error["message"].startswith("server busy")
