"""`/v1`: chunks, usage, refusals."""

import json
import re
from typing import Any

import httpx
import pytest

from tests.app.simulator.raw import CHAT, COMPLETION, chunks_of, post, talk
from tests.app.simulator.test_native import WEATHER
from tests.support.ollama import SimulatedOllama

STREAM = {"stream": True, "max_tokens": 2}
USAGE = {"stream_options": {"include_usage": True}}
ZERO = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
REAL = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def events(text: str) -> list[Any]:
    """Return the data of all events, the terminator as text."""
    assert text.endswith("\n\n")
    data = [event.removeprefix("data: ") for event in text[:-2].split("\n\n")]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


async def test_chat_is_not_streamed_by_default(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/chat/completions", json=CHAT | {"max_tokens": 2})

    assert answer.headers["content-type"] == "application/json"
    assert re.fullmatch(
        r'\{"id":"chatcmpl-\d{1,3}","object":"chat.completion","created":\d+,"model":"llama3.2",'
        r'"system_fingerprint":"fp_ollama","choices":\[\{"index":0,"message":\{"role":"assistant","content":"a is"\},'
        r'"finish_reason":"length"\}\],"usage":\{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5\}\}\n',
        answer.text,
    )


async def test_chat_stream_without_usage(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/chat/completions", json=CHAT | STREAM)

    said = events(answer.text)
    assert answer.headers["content-type"] == "text/event-stream"
    deltas = [chunk["choices"][0]["delta"] for chunk in said[:-1]]
    assert deltas == [{"role": "assistant", "content": "a"}, {"content": " is"}, {}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in said[:-1]] == [None, None, "length"]
    assert said[-1] == "[DONE]"
    assert "usage" not in answer.text


async def test_chat_stream_with_usage_has_one_more_chunk(api: httpx.AsyncClient) -> None:
    *before, usage, done = events((await api.post("/v1/chat/completions", json=CHAT | STREAM | USAGE)).text)

    assert (usage["choices"], usage["usage"], done) == ([], REAL, "[DONE]")
    assert not any("usage" in chunk for chunk in before)


async def test_include_usage_matches_without_case_as_in_go(api: httpx.AsyncClient) -> None:
    asked = CHAT | STREAM | {"Stream_Options": {"INCLUDE_usage": True}}

    assert events((await api.post("/v1/chat/completions", json=asked)).text)[-2]["usage"] == REAL


async def test_finish_usage_and_terminator_leave_in_one_chunk(ollama: SimulatedOllama) -> None:
    answer = await talk(ollama.url, post("/v1/chat/completions", CHAT | STREAM | USAGE, "Connection: close"))

    chunks = chunks_of(answer)
    assert [chunk.count(b"data: ") for chunk in chunks] == [1, 1, 3]


async def test_completion_stream_ends_with_the_finish_reason(api: httpx.AsyncClient) -> None:
    *chunks, done = events((await api.post("/v1/completions", json=COMPLETION | STREAM)).text)

    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["a", " is", ""]
    assert (
        [chunk["choices"][0]["finish_reason"] for chunk in chunks],
        done,
    ) == ([None, None, "length"], "[DONE]")
    assert not any("usage" in chunk for chunk in chunks)


async def test_completion_stream_with_usage_carries_zeros_before_the_truth(api: httpx.AsyncClient) -> None:
    *chunks, usage, _ = events((await api.post("/v1/completions", json=COMPLETION | STREAM | USAGE)).text)

    assert [chunk["usage"] for chunk in chunks] == [ZERO] * 3
    assert (usage["choices"], usage["usage"]) == ([], REAL)


async def test_completion_as_one_document(api: httpx.AsyncClient) -> None:
    answer = (await api.post("/v1/completions", json=COMPLETION | {"max_tokens": 2})).json()

    assert answer["choices"] == [{"text": "a is", "index": 0, "finish_reason": "length"}]
    assert answer["usage"] == REAL


async def test_thinking_is_called_reasoning(api: httpx.AsyncClient) -> None:
    asked = CHAT | {"model": "qwen3:8b", "stream": True}

    *chunks, _ = events((await api.post("/v1/chat/completions", json=asked)).text)

    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "reasoning": "Let"}


async def test_reasoning_effort_none_switches_thinking_off(api: httpx.AsyncClient) -> None:
    asked = CHAT | {"model": "qwen3:8b", "reasoning_effort": "none"}

    assert "reasoning" not in (await api.post("/v1/chat/completions", json=asked)).text


async def test_tool_call_has_string_arguments_and_its_own_finish_reason(api: httpx.AsyncClient) -> None:
    asked = CHAT | {"messages": [{"role": "user", "content": "use get_weather"}], "tools": [WEATHER]}

    (choice,) = (await api.post("/v1/chat/completions", json=asked)).json()["choices"]

    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["index"]) == ("function", 0)
    assert call["function"] == {"name": "get_weather", "arguments": '{"city":"text"}'}
    assert choice["finish_reason"] == "tool_calls"


async def test_response_format_yields_json(api: httpx.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}

    answer = await api.post("/v1/chat/completions", json=CHAT | {"response_format": wanted})

    assert json.loads(answer.json()["choices"][0]["message"]["content"]) == {"ok": True}


@pytest.mark.parametrize(
    ("path", "change", "status", "kind", "message"),
    [
        ("chat/completions", {"model": "no:1"}, 404, "not_found_error", "model 'no:1' not found"),
        ("completions", {"model": "no:1"}, 404, "not_found_error", "model 'no:1' not found"),
        ("chat/completions", {"messages": []}, 400, "invalid_request_error", "[] is too short - 'messages'"),
        (
            "completions",
            {"prompt": ["a"]},
            400,
            "invalid_request_error",
            "json: cannot unmarshal array into Go struct field Request.prompt of type string",
        ),
    ],
)
async def test_refusals_are_error_objects(
    api: httpx.AsyncClient, *, path: str, change: dict[str, object], status: int, kind: str, message: str
) -> None:
    answer = await api.post(f"/v1/{path}", json=(COMPLETION if path == "completions" else CHAT) | change)

    error = {"message": message, "type": kind, "param": None, "code": None}
    assert (status, {"error": error}) == (answer.status_code, answer.json())


async def test_models_are_listed_with_owner_and_time(api: httpx.AsyncClient) -> None:
    listed = (await api.get("/v1/models")).json()

    entry = {"id": "llama3.2:latest", "object": "model", "created": 1768478400, "owned_by": "library"}
    assert ("list", entry) == (listed["object"], listed["data"][0])


async def test_empty_list_is_null(ollama: SimulatedOllama, api: httpx.AsyncClient) -> None:
    await ollama.host()

    assert (await api.get("/v1/models")).text == '{"object":"list","data":null}\n'


async def test_one_model_is_shown_under_the_name_asked_for(api: httpx.AsyncClient) -> None:
    assert (await api.get("/v1/models/llama3.2")).json()["id"] == "llama3.2"


async def test_unknown_model_is_a_404_object(api: httpx.AsyncClient) -> None:
    answer = await api.get("/v1/models/none")

    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
