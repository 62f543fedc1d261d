"""`/api/generate`, `/api/chat` and the native lists: shapes, field order, refusals."""

import json
import re
from typing import Any

import httpx
import pytest

from tests.app.simulator.raw import CHAT, COMPLETION
from tests.support.ollama import SimulatedOllama

STAMP = r'"created_at":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z"'
METRICS = (
    r'"total_duration":[1-9]\d*,"load_duration":[1-9]\d*,"prompt_eval_count":3,"prompt_eval_duration":[1-9]\d*,'
    r'"eval_count":2,"eval_duration":[1-9]\d*\}'
)
TWO = {"options": {"num_predict": 2}}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


async def records(api: httpx.AsyncClient, path: str, body: object) -> list[dict[str, Any]]:
    answer = await api.post(path, json=body)
    assert answer.status_code == 200
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_chat_streams_records_in_gos_field_order(api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/chat", json=CHAT | TWO)

    first, second, final = answer.text.splitlines()
    assert answer.headers["content-type"] == "application/x-ndjson"
    opening = r'\{"model":"llama3.2",' + STAMP
    assert re.fullmatch(opening + r',"message":\{"role":"assistant","content":"a"\},"done":false\}', first)
    assert re.fullmatch(opening + r',"message":\{"role":"assistant","content":" is"\},"done":false\}', second)
    ending = r',"message":\{"role":"assistant","content":""\},"done":true,"done_reason":"length",'
    assert re.fullmatch(opening + ending + METRICS, final)


async def test_chat_as_one_document(api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/chat", json=CHAT | TWO | {"stream": False})

    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    body = r',"message":\{"role":"assistant","content":"a is"\},"done":true,"done_reason":"length",'
    assert re.fullmatch(r'\{"model":"llama3.2",' + STAMP + body + METRICS, answer.text)


async def test_generate_streams_and_ends_with_the_context(api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/generate", json=COMPLETION | TWO)

    first, _, final = answer.text.splitlines()
    opening = r'\{"model":"llama3.2",' + STAMP
    assert re.fullmatch(opening + r',"response":"a","done":false\}', first)
    ending = r',"response":"","done":true,"done_reason":"length","context":\[1,2,3,4,5\],'
    assert re.fullmatch(opening + ending + METRICS, final)


async def test_generate_as_one_document(api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/generate", json=COMPLETION | TWO | {"stream": False})

    body = r',"response":"a is","done":true,"done_reason":"length","context":\[1,2,3,4,5\],'
    assert re.fullmatch(r'\{"model":"llama3.2",' + STAMP + body + METRICS, answer.text)


async def test_raw_generate_has_no_context(api: httpx.AsyncClient) -> None:
    final = (await records(api, "/api/generate", COMPLETION | {"raw": True}))[-1]

    assert "context" not in final


async def test_one_record_is_one_token(ollama: SimulatedOllama, api: httpx.AsyncClient) -> None:
    said = await records(api, "/api/chat", CHAT)

    stats = await ollama.wait(in_flight=0)
    assert (len(said) - 1, said[-1]["eval_count"], stats.tokens) == (12, 12, 12)
    assert said[-1]["done_reason"] == "stop"


async def test_streamed_text_equals_the_whole_text(ollama: SimulatedOllama, api: httpx.AsyncClient) -> None:
    await ollama.change(tokens=40)
    streamed = "".join(record["message"]["content"] for record in await records(api, "/api/chat", CHAT))

    whole = (await records(api, "/api/chat", CHAT | {"stream": False}))[0]["message"]["content"]

    assert streamed == whole


async def test_angle_brackets_are_escaped_as_go_does(ollama: SimulatedOllama, api: httpx.AsyncClient) -> None:
    await ollama.change(tokens=40)

    answer = await api.post("/api/chat", json=CHAT | {"stream": False})

    assert "\\u003cb\\u003e" in answer.text
    assert "\\u0026" in answer.text


@pytest.mark.parametrize("limit", [0, -1, 1000])
async def test_num_predict_that_does_not_bind_is_ignored(api: httpx.AsyncClient, limit: int) -> None:
    final = (await records(api, "/api/chat", CHAT | {"options": {"num_predict": limit}}))[-1]

    assert (final["done_reason"], final["eval_count"]) == ("stop", 12)


async def test_durations_reflect_the_rate(ollama: SimulatedOllama, api: httpx.AsyncClient) -> None:
    await ollama.change(token_interval_ms=10)

    final = (await records(api, "/api/chat", CHAT | {"stream": False}))[0]

    assert final["eval_duration"] == 12 * 10_000_000
    assert final["total_duration"] >= final["eval_duration"] + final["load_duration"]


async def test_model_is_echoed_as_the_client_spelt_it(api: httpx.AsyncClient) -> None:
    final = (await records(api, "/api/chat", CHAT | {"model": "Library/LLAMA3.2:latest"}))[-1]

    assert final["model"] == "Library/LLAMA3.2:latest"


@pytest.mark.parametrize(
    ("keep_alive", "reason"), [(None, "load"), ("5m", "load"), (-1, "load"), (0, "unload"), ("0s", "unload")]
)
async def test_empty_prompt_only_loads_or_unloads(
    api: httpx.AsyncClient, keep_alive: object, reason: str
) -> None:
    answer = await api.post("/api/generate", json={"model": "llama3.2", "keep_alive": keep_alive})

    body = rf',"response":"","done":true,"done_reason":"{reason}"\}}'
    assert re.fullmatch(r'\{"model":"llama3.2",' + STAMP + body, answer.text)


async def test_empty_messages_only_load(api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/chat", json={"model": "llama3.2", "messages": []})

    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.json()["message"] == {"role": "assistant", "content": ""}
    assert (answer.json()["done"], answer.json()["done_reason"]) == (True, "load")


async def test_thinking_is_on_by_default_and_counts(api: httpx.AsyncClient) -> None:
    said = await records(api, "/api/chat", CHAT | {"model": "qwen3:8b"})

    thoughts = [record for record in said if "thinking" in record["message"]]
    assert (len(thoughts), said[-1]["eval_count"]) == (4, 12)
    assert {""} == {record["message"]["content"] for record in thoughts}


async def test_thinking_can_be_switched_off(api: httpx.AsyncClient) -> None:
    said = await records(api, "/api/generate", COMPLETION | {"model": "qwen3:8b", "think": False})

    assert not any("thinking" in record for record in said)


async def test_generate_reports_thinking_beside_the_response(api: httpx.AsyncClient) -> None:
    (whole,) = await records(api, "/api/generate", COMPLETION | {"model": "qwen3:8b", "stream": False})

    assert (whole["thinking"], whole["response"][:4]) == ("Let me think about", "a is")


async def test_tool_call_arrives_whole_with_object_arguments(api: httpx.AsyncClient) -> None:
    asked = CHAT | {"messages": [{"role": "user", "content": "use get_weather"}], "tools": [WEATHER]}

    call, final = await records(api, "/api/chat", asked)

    (function,) = [item["function"] for item in call["message"]["tool_calls"]]
    assert function == {"index": 0, "name": "get_weather", "arguments": {"city": "text"}}
    assert (final["eval_count"], final["done_reason"]) == (1, "stop")


async def test_format_yields_json_of_the_schema(api: httpx.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}, "tags": {"type": "array"}}}

    said = await records(api, "/api/chat", CHAT | {"format": schema})

    text = "".join(record["message"]["content"] for record in said)
    assert json.loads(text) == {"age": 1, "tags": []}
    assert len(said) - 1 == said[-1]["eval_count"]


@pytest.mark.parametrize(
    ("path", "change", "status", "message"),
    [
        ("/api/chat", {"model": "no:1"}, 404, "model 'no:1' not found"),
        ("/api/generate", {"model": ""}, 404, "model '' not found"),
        ("/api/chat", {"model": ""}, 400, "model is required"),
        ("/api/chat", {"model": "nomic-embed-text"}, 400, '"nomic-embed-text" does not support chat'),
        ("/api/generate", {"model": "nomic-embed-text"}, 400, '"nomic-embed-text" does not support generate'),
        ("/api/chat", {"think": True}, 400, '"llama3.2" does not support thinking'),
        ("/api/chat", {"keep_alive": "300"}, 400, 'time: missing unit in duration "300"'),
        ("/api/chat", {"format": 7}, 500, 'invalid format: 7; expected "json" or a valid JSON Schema object'),
        (
            "/api/chat",
            {"options": {"temperature": "hot"}},
            500,
            'option "temperature" must be of type float32',
        ),
        (
            "/api/generate",
            {"raw": True, "system": "s"},
            400,
            "raw mode does not support template, system, or context",
        ),
    ],
)
async def test_refusals_are_native_errors(
    api: httpx.AsyncClient, path: str, change: dict[str, object], status: int, message: str
) -> None:
    answer = await api.post(path, json=(CHAT if path == "/api/chat" else COMPLETION) | change)

    assert (status, {"error": message}) == (answer.status_code, answer.json())
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


async def test_empty_body_is_a_400(api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/chat")

    assert (answer.status_code, answer.json()) == (400, {"error": "missing request body"})


async def test_tags_list_name_model_digest_and_details(api: httpx.AsyncClient) -> None:
    first = (await api.get("/api/tags")).json()["models"][0]

    assert first["name"] == first["model"] == "llama3.2:latest"
    assert re.fullmatch(r"[0-9a-f]{64}", first["digest"])
    assert {"parent_model", "format", "family", "families", "parameter_size", "quantization_level"} <= set(
        first["details"]
    )


async def test_ps_shows_what_was_used(api: httpx.AsyncClient) -> None:
    before = (await api.get("/api/ps")).json()["models"]
    await api.post("/api/chat", json=CHAT)

    after = (await api.get("/api/ps")).json()["models"]

    assert (before, [model["name"] for model in after]) == ([], ["llama3.2:latest"])
    assert {"expires_at", "size_vram", "context_length", "digest"} <= set(after[0])


async def test_keep_alive_zero_unloads_after_the_answer(api: httpx.AsyncClient) -> None:
    await api.post("/api/chat", json=CHAT | {"keep_alive": 0})

    assert (await api.get("/api/ps")).json() == {"models": []}


@pytest.mark.parametrize("field", ["model", "name"])
async def test_show_knows_both_spellings_of_the_field(api: httpx.AsyncClient, field: str) -> None:
    shown = (await api.post("/api/show", json={field: "llama3.2"})).json()

    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["capabilities"] == ["completion", "tools"]


async def test_management_routes_answer_and_are_logged(
    ollama: SimulatedOllama, api: httpx.AsyncClient
) -> None:
    reached = [
        await api.post("/api/pull", json={"model": "x"}),
        await api.request("DELETE", "/api/delete", json={"model": "x"}),
        await api.post("/api/blobs/sha256:1"),
        await api.post("/api/experimental/web_search", json={}),
    ]

    assert [answer.status_code for answer in reached] == [200] * 4
    seen = [request.path for request in await ollama.requests(in_flight=0)]
    assert seen == ["/api/pull", "/api/delete", "/api/blobs/sha256:1", "/api/experimental/web_search"]
