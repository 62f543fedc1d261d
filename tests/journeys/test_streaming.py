"""Streams through the gateway: when records arrive, what is changed in them, and what leaving costs."""

import asyncio
import itertools
import json
import time
from datetime import datetime
from statistics import median
from typing import Any, Final
from uuid import UUID

import httpx
import pytest

from tests.support.asking import (
    MESSAGES,
    MODEL,
    NATIVE_STREAM,
    NATIVE_WHOLE,
    OPENAI_STREAM,
    PROMPT_CHARS,
    SHAPES,
    STREAMS,
    Shape,
    ask,
    models_in,
    records,
)
from tests.support.fleet import COMMON, LONER, PACED, TOKENS_PER_ANSWER, Fleet
from tests.support.gateway import Gateway, Key, UsageRow, request_id
from tests.support.leaving_client import leaving_client

PROMISED_S: Final = 0.05
RUNS: Final = 7
COMPLETION = {"model": MODEL, "prompt": "How are you?", "stream": True}


# when records arrive


async def _delays(client: httpx.AsyncClient, url: str) -> list[float]:
    """Return how long after the backend wrote it each record arrived, in seconds."""
    delays = []
    async with client.stream("POST", f"{url}/api/chat", json=NATIVE_STREAM.body(LONER)) as reply:
        async for line in reply.aiter_lines():
            written = datetime.fromisoformat(json.loads(line)["created_at"][:26] + "+00:00")
            delays.append(time.time() - written.timestamp())
    return delays


async def test_each_record_arrives_as_it_was_written(fleet: Fleet, client: httpx.AsyncClient) -> None:
    await fleet.c.change(token_interval_ms=15)

    floor = median(await _delays(client, fleet.c.url))
    through = await _delays(client, "")

    assert len(through) == TOKENS_PER_ANSWER + 1
    assert median(through) - floor < PROMISED_S


async def test_events_arrive_one_by_one(fleet: Fleet, client: httpx.AsyncClient) -> None:
    await fleet.c.change(token_interval_ms=15)
    async with client.stream("POST", OPENAI_STREAM.path, json=OPENAI_STREAM.body(LONER)) as reply:
        arrivals = [time.monotonic() async for line in reply.aiter_lines() if '"finish_reason":null' in line]

    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    assert len(arrivals) == TOKENS_PER_ANSWER
    assert median(gaps) > 0.005


# leaving


async def _leave(
    gateway: Gateway, key: Key, shape: Shape, *, after: int, model: str = LONER
) -> tuple[UUID | None, int, float]:
    """Leave after so many records (0: before anything came); return id, records received, and when."""
    async with leaving_client(gateway.url) as leaver:
        await leaver.post(shape.path, shape.body(model), key=key.text)
        received = 0
        if after:
            await leaver.head()
            received = await leaver.records(after)
        else:
            await gateway.backends["c"].wait(started=1)
        return leaver.request_id, received, leaver.leave()


@pytest.mark.parametrize(
    ("shape", "after"),
    [*((shape, 2) for shape in STREAMS), (NATIVE_STREAM, 0), (NATIVE_WHOLE, 0)],
    ids=[*(f"{shape.family} in mid-stream" for shape in STREAMS), "before the first byte", "not streamed"],
)
async def test_case_36_the_backend_is_let_go_when_the_client_leaves(
    gateway: Gateway, fleet: Fleet, shape: Shape, after: int
) -> None:
    await fleet.c.change(token_interval_ms=20 if after else 400)
    key = await gateway.tenant()
    took = []
    for _ in range(RUNS):
        await fleet.c.clear()
        left_at = (await _leave(gateway, key, shape, after=after))[2]
        (seen,) = await fleet.c.requests(ended=1)
        assert seen.ended_s is not None
        took.append(seen.ended_s - left_at)
        assert seen.outcome == "client_closed"

    assert median(took) < PROMISED_S
    rows = await gateway.rows_of_all(key, RUNS)
    assert {row.outcome for row in rows} == {"client_closed"}


@pytest.mark.parametrize("shape", STREAMS, ids=str)
async def test_leaving_at_any_record_is_charged_for_what_was_released(
    gateway: Gateway, fleet: Fleet, shape: Shape
) -> None:
    await fleet.c.change(token_interval_ms=25)
    key = await gateway.tenant()

    indices = range(1, TOKENS_PER_ANSWER)
    left = await asyncio.gather(*(_leave(gateway, key, shape, after=index) for index in indices))

    received = {number: records for number, records, _ in left if number is not None}
    emitted = {UUID(str(seen.request_id)): seen.tokens for seen in await fleet.c.requests(ended=len(left))}
    rows = {row.request_id: row for row in await gateway.rows(received)}
    assert len(rows) == len(indices)
    for number, row in rows.items():
        assert (row.outcome, row.estimated, row.tokens_in) == ("client_closed", True, PROMPT_CHARS // 4)
        assert received[number] <= row.tokens_out <= emitted[number]


async def test_leaving_an_unstreamed_answer_is_charged_by_the_time_it_took(
    gateway: Gateway, fleet: Fleet, client: httpx.AsyncClient
) -> None:
    await fleet.c.change(token_interval_ms=20)
    await ask(client, NATIVE_WHOLE, PACED)  # from now on the gateway knows the speed: 50 tokens a second
    await fleet.c.change(tokens=100)
    await fleet.c.clear()
    key = await gateway.tenant()

    async with leaving_client(gateway.url) as leaver:
        await leaver.post(NATIVE_WHOLE.path, NATIVE_WHOLE.body(PACED), key=key.text)
        (seen,) = await fleet.c.requests(started=1)
        await asyncio.to_thread(_wait_until, seen.started_s + 0.3)
        leaver.leave()

    (row,) = await gateway.rows_of_all(key, 1)
    assert (row.outcome, row.estimated) == ("client_closed", True)
    assert 10 <= row.tokens_out <= 60


def _wait_until(moment: float) -> None:
    """Let time pass: it is what is charged for."""
    time.sleep(max(0.0, moment - time.monotonic()))


async def test_a_client_that_stops_reading_is_cut(gateway: Gateway, fleet: Fleet) -> None:
    await fleet.c.change(tokens=200_000)
    key = await gateway.tenant()
    body = NATIVE_STREAM.body(LONER, options={"num_predict": 200_000})
    async with leaving_client(gateway.url, receive_buffer=4096) as leaver:
        await leaver.post(NATIVE_STREAM.path, body, key=key.text)
        await leaver.head()
        await fleet.c.wait(stalled=1, timeout_s=15)

        (seen,) = await fleet.c.requests(ended=1, timeout_s=10)

    assert seen.outcome == "client_closed"
    (row,) = await gateway.rows_of_all(key, 1)
    assert row.outcome == "client_closed"
    assert row.tokens_out <= seen.tokens


# usage in OpenAI's streams


async def test_case_29_usage_is_asked_for_and_taken_out_again(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    await fleet.even_out()

    reply = await ask(client, OPENAI_STREAM)

    (seen,) = await fleet.a.requests()
    assert seen.body is not None
    assert seen.body["stream_options"] == {"include_usage": True}
    chunks = records(reply)
    assert chunks.count("[DONE]") == 1
    assert chunks[-1] == "[DONE]"
    assert all(not chunk.get("usage") and chunk["choices"] for chunk in chunks[:-1])
    row = await fleet.row(reply)
    assert (row.tokens_in, row.tokens_out, row.estimated) == (3, TOKENS_PER_ANSWER, False)


async def test_case_29_usage_that_was_asked_for_is_there_once(client: httpx.AsyncClient) -> None:
    reply = await ask(client, OPENAI_STREAM, stream_options={"include_usage": True})

    *chunks, done = records(reply)
    with_usage = [chunk for chunk in chunks if chunk.get("usage")]
    assert done == "[DONE]"
    assert with_usage == [chunks[-1]]
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["completion_tokens"]) == ([], TOKENS_PER_ANSWER)


async def test_case_30_completions_show_no_usage_unasked(fleet: Fleet, client: httpx.AsyncClient) -> None:
    reply = await client.post("/v1/completions", json=COMPLETION)

    *chunks, done = records(reply)
    assert done == "[DONE]"
    assert not any("usage" in chunk for chunk in chunks)
    assert (await fleet.row(reply)).tokens_out == TOKENS_PER_ANSWER


async def test_completions_show_usage_that_was_asked_for(client: httpx.AsyncClient) -> None:
    reply = await client.post(
        "/v1/completions", json={**COMPLETION, "stream_options": {"include_usage": True}}
    )

    *chunks, _ = records(reply)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks][-1] == TOKENS_PER_ANSWER


# bytes


async def test_case_33_a_last_line_of_two_megabytes_is_relayed_byte_for_byte(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    context = b",".join(b"%d" % number for number in range(300_000))
    line = (
        b'{"model":"llama3.2",  "response":"","done":true,"done_reason":"stop","context":[%b],'
        b'"prompt_eval_count":7,"eval_count":2}\n' % context
    )
    assert len(line) > 1_900_000
    await fleet.even_out()
    await fleet.a.order("inband_error", after=2, raw_body=line.decode())

    reply = await client.post("/api/generate", json={"model": COMMON, "prompt": "How are you?"})

    assert reply.content.endswith(b"\n" + line)
    row = await fleet.row(reply)
    assert (row.outcome, row.tokens_in, row.tokens_out) == ("completed", 7, 2)


@pytest.mark.parametrize("shape", STREAMS, ids=str)
async def test_a_stream_is_what_the_backend_wrote(
    fleet: Fleet, client: httpx.AsyncClient, shape: Shape
) -> None:
    """Two answers differ in times and ids only, so these are blanked before they are compared."""
    await fleet.even_out()
    options = {"stream_options": {"include_usage": True}} if shape == OPENAI_STREAM else {}
    wanted = shape.body(COMMON, **shape.cap(TOKENS_PER_ANSWER - 2), **options)

    direct = await client.post(fleet.a.url + shape.path, json=wanted)
    through = await client.post(shape.path, json=wanted)

    assert _blanked(through) == _blanked(direct)
    assert through.headers["content-type"].split(";")[0] == direct.headers["content-type"].split(";")[0]


VARYING = {
    *("created_at", "created", "completed_at", "id", "item_id"),
    *("total_duration", "load_duration", "eval_duration"),
}


def _blanked(reply: httpx.Response) -> list[Any]:
    return [_blank(record) for record in records(reply)]


def _blank(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: "" if name in VARYING else _blank(part) for name, part in value.items()}
    return [_blank(part) for part in value] if isinstance(value, list) else value


SPELLINGS = [
    "llama3.2",
    "llama3.2:latest",
    "LLAMA3.2",
    "library/llama3.2",
    "registry.ollama.ai/library/llama3.2:latest",
    "http://registry.ollama.ai/library/llama3.2",
    " llama3.2 ",
    "llama3.2:local",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_case_10_every_spelling_is_one_model_and_comes_back_as_it_was_written(
    fleet: Fleet, gateway: Gateway, spelling: str
) -> None:
    await fleet.even_out()
    key = await gateway.tenant("llama3.2")
    async with gateway.client(key) as client:
        replies = [await ask(client, shape, spelling) for shape in SHAPES]

    echoed = [models_in(*pair) for pair in zip(SHAPES, replies, strict=True)]
    assert echoed == [{spelling}] * len(SHAPES)
    assert {row.model for row in await fleet.rows(*replies)} == {"llama3.2:latest"}
    sent = {seen.body["model"] for seen in await fleet.a.requests() if seen.body}
    assert sent == {spelling if spelling in {"llama3.2", "llama3.2:latest"} else "llama3.2:latest"}


# loading and unloading


@pytest.mark.parametrize("stream", [{}, {"stream": True}, {"stream": False}], ids=str)
async def test_case_28_a_request_without_messages_loads_the_model(
    fleet: Fleet, client: httpx.AsyncClient, stream: dict[str, bool]
) -> None:
    reply = await client.post("/api/chat", json={"model": MODEL, "messages": [], **stream})

    assert (reply.json()["done"], reply.json()["done_reason"]) == (True, "load")
    row = await fleet.row(reply)
    assert (row.outcome, row.tokens_in, row.tokens_out) == ("completed", 0, 0)


@pytest.mark.parametrize(("path", "said"), [("/api/chat", "message"), ("/api/generate", "response")])
async def test_case_23_an_unload_is_answered_and_never_sent(
    fleet: Fleet, client: httpx.AsyncClient, path: str, said: str
) -> None:
    reply = await client.post(path, json={"model": MODEL, "keep_alive": 0})

    assert (reply.status_code, reply.json()["done_reason"]) == (200, "unload")
    assert said in reply.json()
    assert await fleet.attempts() == ""


# what the backend sees


@pytest.mark.parametrize("keep_alive", [-1, 0, "24h", 99999, "0s"])
async def test_case_24_keep_alive_is_never_forwarded(
    fleet: Fleet, client: httpx.AsyncClient, keep_alive: object
) -> None:
    await ask(client, NATIVE_WHOLE, LONER, keep_alive=keep_alive)

    (seen,) = await fleet.c.requests()
    assert "keep_alive" not in (seen.body or {})


async def test_case_05_the_backend_sees_our_headers_and_nobody_else_s(
    fleet: Fleet, gateway: Gateway, everything: Key
) -> None:
    await fleet.even_out()
    foreign = {
        "x-api-key": everything.text,
        "Cookie": "session=secret",
        "Origin": "https://example.com",
        "Referer": "https://example.com/x",
        "X-Forwarded-For": "6.6.6.6",
        "X-Forwarded-Host": "example.com",
        "X-Real-IP": "6.6.6.6",
        "Connection": "keep-alive, x-odd",
        "x-odd": "1",
        "User-Agent": "somebody/1",
        "X-Request-ID": "mine",
    }
    async with gateway.client(everything) as client:
        reply = await client.post(f"{NATIVE_WHOLE.path}?beta=true", json=NATIVE_WHOLE.body(), headers=foreign)

    assert reply.status_code == 200
    (seen,) = await fleet.a.requests()
    headers = {name.lower(): value for name, value in seen.headers}
    assert headers == {
        "host": fleet.a.url.removeprefix("http://"),
        "content-type": "application/json",
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-length": str(len(seen.raw_body.encode())),
        "x-request-id": str(request_id(reply)),
    }
    assert seen.query == ""
    row: UsageRow = await fleet.row(reply)
    assert row.client_request_id == "mine"


async def test_the_backend_gets_its_own_token(fleet: Fleet, client: httpx.AsyncClient) -> None:
    await fleet.even_out()
    await fleet.a.order("busy")

    await ask(client)

    (seen,) = await fleet.b.requests()
    assert seen.header("authorization") == "Bearer token-of-b"


async def test_traceparent_is_passed_on(fleet: Fleet, client: httpx.AsyncClient) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    await client.post(
        "/api/chat",
        json={"model": LONER, "messages": MESSAGES, "stream": False},
        headers={"traceparent": parent},
    )

    (seen,) = await fleet.c.requests()
    assert seen.header("traceparent") == parent
