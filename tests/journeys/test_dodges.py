"""A tenant who looks for free tokens: other routes, batches, odd caps, images, schemas, failures and nothing at all."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final

import httpx
import pytest

from app.gateway.attempts import HELD_BODY_BYTES
from tests.support.asking import (
    ANTHROPIC_STREAM,
    MESSAGES,
    MODEL,
    NATIVE_WHOLE,
    PROMPT_CHARS,
    RESPONSES_STREAM,
    STREAMS,
    Shape,
    ask,
)
from tests.support.fleet import EMBEDDER
from tests.support.gateway import Gateway
from tests.support.homes import Home
from tests.support.leaving_client import leaving_client
from tests.support.limited import LARGE, Limited, moved_to, reserved_by, tokens_left
from tests.support.ollama import SimulatedOllama
from tests.support.pictures import png

TOO_MANY: Final = httpx.codes.TOO_MANY_REQUESTS
TOKENS: Final = 40
DEFAULT_CAP: Final = 4096
IMAGE_TOKENS: Final = 4096
CONTEXT: Final = 8192
FRESH: Final = "fresh:1b"
"""Never answers to its end here, so that nobody knows its speed."""
PER_MESSAGE: Final = 32
TEXT: Final = MESSAGES[0]["content"]
PICTURE: Final = png()
CAN_DO_ALL: Final[dict[str, object]] = {
    "name": f"{MODEL}:latest",
    "capabilities": ["completion", "insert", "tools", "vision"],
    "context_length": CONTEXT,
}
CHAT: Final[dict[str, Any]] = {"model": MODEL, "messages": MESSAGES}
PROMPT: Final[dict[str, Any]] = {"model": MODEL, "prompt": TEXT}
BODIES: Final = {
    "/api/chat": CHAT,
    "/api/generate": PROMPT,
    "/v1/chat/completions": CHAT,
    "/v1/completions": PROMPT,
}


@pytest.fixture(scope="module")
async def instance(home: Home) -> AsyncIterator[Gateway]:
    backend = SimulatedOllama.start(models=f"{MODEL}:latest,{EMBEDDER}:latest,{FRESH}", tokens=TOKENS)
    async with home.running(backend) as gateway:
        yield gateway


@pytest.fixture
async def backend(instance: Gateway) -> SimulatedOllama:
    """Give the backend with an empty log; its model can do everything."""
    (backend,) = instance.backends.values()
    await backend.reset()
    await backend.host(CAN_DO_ALL, f"{EMBEDDER}:latest", FRESH)
    return backend


@pytest.fixture
async def limited(instance: Gateway, backend: SimulatedOllama) -> AsyncIterator[Limited]:
    assert backend.url
    async with AsyncExitStack() as stack:
        yield Limited(instance, stack)


# -- the same work costs the same


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("path", BODIES)
async def test_the_same_work_costs_the_same_on_every_route(
    limited: Limited, path: str, *, stream: bool
) -> None:
    client = await limited.new(tokens_per_day=LARGE)
    reply = await client.post(path, json={**BODIES[path], "stream": stream})
    row = await limited.gateway.row(reply)

    assert (row.tokens_in, row.tokens_out, row.estimated) == (PROMPT_CHARS // 4, TOKENS, False)
    await moved_to(PROMPT_CHARS // 4 + TOKENS, client)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        *((path, {"options": {"num_predict": cap}}) for path in ("/api/chat", "/api/generate") for cap in (-2, -1, 0)),
        ("/api/chat", {}),
        ("/api/generate", {}),
        ("/v1/chat/completions", {}),
        ("/v1/chat/completions", {"max_tokens": 0, "max_completion_tokens": -1}),
        ("/v1/chat/completions", {"n": 50, "best_of": 50}),
        ("/v1/completions", {"max_tokens": -1}),
        ("/v1/completions", {"n": 50, "best_of": 50}),
    ],
    ids=str,
)  # fmt: skip
async def test_who_names_no_cap_has_the_default_one_reserved_and_sent(
    limited: Limited, backend: SimulatedOllama, path: str, fields: dict[str, Any]
) -> None:
    await backend.change(tokens=DEFAULT_CAP + 1000)
    client = await limited.new(tokens_per_day=LARGE)
    reply = await client.post(path, json={**BODIES[path], "stream": True, **fields})
    row = await limited.gateway.row(reply)

    assert row.tokens_out == DEFAULT_CAP
    assert DEFAULT_CAP < row.tokens_in + row.tokens_out <= reserved_by(reply)
    await moved_to(row.tokens_in + row.tokens_out, client)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/api/chat", {"options": {"num_predict": 10**9}}),
        ("/api/generate", {"options": {"num_predict": 1e18}}),
        ("/v1/chat/completions", {"max_tokens": 10**9}),
        ("/v1/chat/completions", {"max_completion_tokens": 10**9}),
        ("/v1/completions", {"max_tokens": 10**9}),
    ],
    ids=str,
)
async def test_who_names_a_huge_cap_gets_what_the_limit_holds(
    limited: Limited, backend: SimulatedOllama, path: str, fields: dict[str, Any]
) -> None:
    await backend.change(tokens=5000)
    client = await limited.new(tokens_per_day=1000)
    reply = await client.post(path, json={**BODIES[path], "stream": False, **fields})
    row = await limited.gateway.row(reply)

    assert tokens_left(reply) == 0
    assert 900 < row.tokens_in + row.tokens_out <= 1000


# -- what a prompt consists of


def _tools(size: int) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f", "description": "x" * size, "parameters": {}}}]


@pytest.mark.parametrize(
    ("path", "fields", "tokens"),
    [
        ("/api/chat", {"messages": [{**MESSAGES[0], "images": [PICTURE] * 3}]}, 3 * IMAGE_TOKENS),
        ("/api/generate", {"images": [PICTURE] * 3}, 3 * IMAGE_TOKENS),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [
                {"type": "text", "text": TEXT},
                *[{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}] * 3,
            ]}]},
            3 * IMAGE_TOKENS,
        ),
        ("/api/chat", {"tools": _tools(5000)}, 5000),
        ("/v1/chat/completions", {"tools": _tools(5000)}, 5000),
        ("/api/chat", {"format": {"type": "object", "description": "x" * 5000}}, 5000),
        ("/api/generate", {"format": {"type": "object", "description": "x" * 5000}}, 5000),
        ("/api/generate", {"system": "x" * 5000}, 5000),
        ("/api/generate", {"suffix": "x" * 5000}, 5000),
        ("/api/generate", {"context": [1] * 5000}, 5000),
        ("/api/generate", {"prompt": "x" * 5000, "raw": True}, 5000 - PROMPT_CHARS),
        ("/v1/completions", {"suffix": "x" * 5000}, 5000),
        ("/api/chat", {"messages": MESSAGES * 100}, 99 * (PER_MESSAGE + PROMPT_CHARS)),
        ("/api/chat", {"messages": [{"role": "x" * 5000, "content": TEXT}]}, 5000 - len("user")),
    ],
    ids=["images", "images", "images", "tools", "tools", "format", "format", "system", "suffix", "context", "raw",
         "suffix", "messages", "role"],
)  # fmt: skip
async def test_all_that_reaches_the_model_is_reserved(
    limited: Limited, path: str, fields: dict[str, Any], tokens: int
) -> None:
    plain = await (await limited.new(tokens_per_day=LARGE)).post(path, json=BODIES[path])
    client = await limited.new(tokens_per_day=LARGE)
    reply = await client.post(path, json={**BODIES[path], **fields})
    row = await limited.gateway.row(reply)

    assert reply.status_code == httpx.codes.OK
    assert reserved_by(reply) >= reserved_by(plain) + tokens
    assert row.tokens_in + row.tokens_out <= reserved_by(reply)


@pytest.mark.parametrize(
    ("path", "fields", "tokens"),
    [
        ("/api/chat", {"messages": [{**MESSAGES[0], "images": [PICTURE] * 2}]}, 2 * IMAGE_TOKENS),
        ("/api/generate", {"images": [PICTURE] * 2}, 2 * IMAGE_TOKENS),
        ("/api/generate", {"context": [1] * 500}, 500),
        ("/api/generate", {"prompt": TEXT + "你好" * 200}, 300),
    ],
    ids=["chat images", "generate images", "context", "chinese"],
)
async def test_leaving_before_the_backend_reports_makes_no_prompt_cheap(
    limited: Limited, backend: SimulatedOllama, path: str, fields: dict[str, Any], tokens: int
) -> None:
    await backend.order("hang", after=1)
    key = await limited.key(tokens_per_day=LARGE)
    async with leaving_client(limited.gateway.url) as leaver:
        await leaver.post(path, {**BODIES[path], **fields, "stream": True}, key=key.text)
        await leaver.head()
        await leaver.records(1)
        leaver.leave()
    (row,) = await limited.gateway.rows_of_all(key, 1)

    assert (row.tokens_in, row.tokens_out) == (PROMPT_CHARS // 4 + tokens, 1)
    await moved_to(row.tokens_in + row.tokens_out, await limited.client(key))


async def test_a_prompt_beyond_the_context_is_charged_no_more_than_was_reserved(
    limited: Limited, backend: SimulatedOllama
) -> None:
    await backend.order("hang", after=1)
    key = await limited.key(tokens_per_day=LARGE)
    async with leaving_client(limited.gateway.url) as leaver:
        body = {**PROMPT, "prompt": "x" * 20 * CONTEXT, "stream": True}
        await leaver.post("/api/generate", body, key=key.text)
        _, headers = await leaver.head()
        await leaver.records(1)
        leaver.leave()
    (row,) = await limited.gateway.rows_of_all(key, 1)

    assert row.tokens_in + row.tokens_out <= LARGE - int(headers["x-ratelimit-remaining-tokens"])


# -- what an answer holds that never told its counts


WRITTEN: Final = "x" * 2000
ARGUMENTS_TOKENS: Final = len('{"note":""}' + WRITTEN) // 4


def _calling(shape: Shape) -> dict[str, Any]:
    """Return the fields that make the model call a tool with a long argument."""
    schema = {"type": "object", "properties": {"note": {"const": WRITTEN}}}
    say = {"messages": [{"role": "user", "content": "use weather"}]}
    if shape == ANTHROPIC_STREAM:
        return {**say, "tools": [{"name": "weather", "input_schema": schema}]}
    function = {"name": "weather", "parameters": schema}
    if shape == RESPONSES_STREAM:
        return {"input": "use weather", "tools": [{"type": "function", **function}]}
    return {**say, "tools": [{"type": "function", "function": function}]}


@pytest.mark.parametrize("shape", STREAMS, ids=str)
async def test_leaving_right_after_a_call_costs_what_its_arguments_come_to(
    limited: Limited, backend: SimulatedOllama, shape: Shape
) -> None:
    await backend.order("hang", after=1)
    key = await limited.key(tokens_per_day=LARGE)
    async with leaving_client(limited.gateway.url) as leaver:
        await leaver.post(shape.path, shape.body(**_calling(shape)), key=key.text)
        await leaver.head()
        seen = b""
        while WRITTEN.encode() not in seen:
            seen += await leaver.chunk()
        leaver.leave()
    (row,) = await limited.gateway.rows_of_all(key, 1)

    assert (row.outcome, row.tokens_out, row.estimated) == ("client_closed", ARGUMENTS_TOKENS, True)
    await moved_to(row.tokens_in + row.tokens_out, await limited.client(key))


async def test_a_large_answer_that_broke_off_costs_what_was_relayed_where_the_speed_is_unknown(
    limited: Limited, backend: SimulatedOllama
) -> None:
    tokens = 300_000  # 1.5 MB
    await backend.change(tokens=tokens)
    await backend.order("wrong_length", size=1 << 24)
    key = await limited.key(tokens_per_day=LARGE)
    client = await limited.client(key)
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post(
            "/api/chat", json={**CHAT, "model": FRESH, "stream": False, "options": {"num_predict": tokens}}
        )
    (row,) = await limited.gateway.rows_of_all(key, 1)

    assert (row.outcome, row.tokens_in, row.estimated) == ("upstream_truncated", PROMPT_CHARS // 4, True)
    assert HELD_BODY_BYTES // 4 <= row.tokens_out <= tokens
    await moved_to(row.tokens_in + row.tokens_out, client)


# -- embeddings


@pytest.mark.parametrize("path", ["/api/embed", "/v1/embeddings"])
async def test_a_batch_is_reserved_and_charged_for_every_input(limited: Limited, path: str) -> None:
    inputs = ["x" * length for length in (40, 400, 4000)]
    client = await limited.new(tokens_per_day=LARGE)
    reply = await client.post(path, json={"model": EMBEDDER, "input": inputs})
    row = await limited.gateway.row(reply)

    assert reserved_by(reply) == 4440 + 3 * PER_MESSAGE
    assert (row.tokens_in, row.tokens_out, row.estimated) == (1110, 0, False)
    await moved_to(1110, client)


@pytest.mark.parametrize("path", ["/api/embed", "/v1/embeddings"])
async def test_a_batch_that_does_not_fit_is_refused_whole(
    limited: Limited, backend: SimulatedOllama, path: str
) -> None:
    fits = 10 * (100 + PER_MESSAGE)
    client = await limited.new(tokens_per_day=fits)
    too_many = await client.post(path, json={"model": EMBEDDER, "input": ["x" * 100] * 11})
    all_fit = await client.post(path, json={"model": EMBEDDER, "input": ["x" * 100] * 10})

    assert (too_many.status_code, all_fit.status_code) == (TOO_MANY, httpx.codes.OK)
    assert len(await backend.requests()) == 1


@pytest.mark.parametrize(
    ("prompt", "tokens"), [("x" * 4000, 1000), ("你好" * 500, 750)], ids=["english", "chinese"]
)
async def test_the_old_embeddings_route_is_charged_although_it_reports_nothing(
    limited: Limited, prompt: str, tokens: int
) -> None:
    client = await limited.new(tokens_per_day=LARGE)
    reply = await client.post("/api/embeddings", json={"model": EMBEDDER, "prompt": prompt})
    row = await limited.gateway.row(reply)

    assert (row.tokens_in, row.tokens_out, row.estimated) == (tokens, 0, True)
    await moved_to(tokens, client)


async def test_a_batch_that_was_left_is_charged(limited: Limited, backend: SimulatedOllama) -> None:
    await backend.order("hang", path="/api/embed")
    key = await limited.key(tokens_per_day=LARGE)
    async with leaving_client(limited.gateway.url) as leaver:
        await leaver.post("/api/embed", {"model": EMBEDDER, "input": ["x" * 400] * 5}, key=key.text)
        await backend.wait(started=1)
        leaver.leave()
    (row,) = await limited.gateway.rows_of_all(key, 1)

    assert (row.outcome, row.tokens_in, row.tokens_out) == ("client_closed", 500, 0)
    await moved_to(500, await limited.client(key))


@pytest.mark.parametrize("path", ["/api/embed", "/v1/embeddings"])
@pytest.mark.parametrize(("texts", "tokens"), [(5, 500), (1, 0)])
async def test_a_batch_that_is_refused_for_one_of_its_texts_is_charged_for_the_others(
    limited: Limited, backend: SimulatedOllama, path: str, texts: int, tokens: int
) -> None:
    await backend.order("status", status=400, body="the input length exceeds the context length")
    client = await limited.new(tokens_per_day=LARGE)
    refused = await client.post(path, json={"model": EMBEDDER, "input": ["x" * 400] * texts})
    row = await limited.gateway.row(refused)

    assert (refused.status_code, row.outcome) == (httpx.codes.BAD_REQUEST, "rejected_upstream")
    assert (row.tokens_in, row.tokens_out, row.estimated) == (tokens, 0, texts > 1)
    await moved_to(tokens, client)


# -- what costs no tokens


@pytest.mark.parametrize(("status", "said"), [(400, 400), (500, 502)])
async def test_what_a_backend_refused_costs_no_tokens_but_counts_as_a_request(
    limited: Limited, backend: SimulatedOllama, status: int, said: int
) -> None:
    await backend.order("status", status=status, body="an option must be of type integer" * (status == 400))
    client = await limited.new(tokens_per_day=LARGE, requests_per_minute=3)
    refused = await ask(client)
    row = await limited.gateway.row(refused)

    assert (refused.status_code, row.tokens_in, row.tokens_out) == (said, 0, 0)
    assert refused.headers["x-ratelimit-remaining-requests"] == "2"
    await moved_to(0, client)


@pytest.mark.parametrize(
    ("path", "fields"),
    [("/api/chat", {"messages": []}), ("/api/generate", {"prompt": ""}), ("/api/embed", {"input": []})],
    ids=["chat", "generate", "embed"],
)
async def test_loading_a_model_costs_no_tokens_but_counts_as_a_request(
    limited: Limited, path: str, fields: dict[str, Any]
) -> None:
    client = await limited.new(tokens_per_day=LARGE, requests_per_minute=1)
    body = {"model": MODEL, **fields}
    first, second = [await client.post(path, json=body) for _ in range(2)]
    row = await limited.gateway.row(first)

    assert (first.status_code, second.status_code) == (httpx.codes.OK, TOO_MANY)
    assert (row.tokens_in, row.tokens_out) == (0, 0)


async def test_a_blank_prompt_is_no_answer_for_free(limited: Limited, backend: SimulatedOllama) -> None:
    client = await limited.new(tokens_per_day=LARGE)
    reply = await client.post("/api/generate", json={**PROMPT, "prompt": " ", "stream": False})
    row = await limited.gateway.row(reply)

    assert row.tokens_out == TOKENS
    assert len(await backend.requests()) == 1
    await moved_to(row.tokens_in + TOKENS, client)


async def test_an_unload_is_answered_without_work_and_counts_for_nothing(
    limited: Limited, backend: SimulatedOllama
) -> None:
    client = await limited.new(requests_per_minute=1)
    for _ in range(3):
        reply = await ask(client, NATIVE_WHOLE, messages=[], keep_alive=0)
        assert (reply.status_code, reply.json()["done_reason"]) == (httpx.codes.OK, "unload")

    assert await backend.requests() == []
