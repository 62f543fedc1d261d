"""Whoever leaves an answer pays for what was released of it, wherever that is: no more, no less, and once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final

import pytest

from tests.support.asking import (
    ANTHROPIC_STREAM,
    MESSAGES,
    MODEL,
    NATIVE_WHOLE,
    OPENAI_WHOLE,
    PROMPT_CHARS,
    RESPONSES_STREAM,
    Shape,
    ask,
)
from tests.support.fleet import PACED
from tests.support.gateway import Gateway, Key
from tests.support.homes import Home
from tests.support.leaving_client import leaving_client
from tests.support.limited import LARGE, Limited, moved_to
from tests.support.ollama import SimulatedOllama

TOKENS: Final = 8
PACE_MS: Final = 25
CHAT: Final = {"model": MODEL, "messages": MESSAGES, "stream": True}
PROMPT: Final = {"model": MODEL, "prompt": MESSAGES[0]["content"], "stream": True}
STREAMS: Final[dict[str, dict[str, Any]]] = {
    "/api/chat": CHAT,
    "/api/generate": PROMPT,
    "/v1/chat/completions": CHAT,
    "/v1/completions": PROMPT,
    RESPONSES_STREAM.path: RESPONSES_STREAM.body(),
    ANTHROPIC_STREAM.path: ANTHROPIC_STREAM.body(),
}
PROMPT_TOKENS: Final = PROMPT_CHARS // 4
"""Of a prompt whose tokens no backend reported. The simulated one counts alike."""


@pytest.fixture(scope="module")
async def instance(home: Home) -> AsyncIterator[Gateway]:
    backend = SimulatedOllama.start(models=f"{MODEL}:latest,{PACED}", tokens=TOKENS)
    async with home.running(backend) as gateway:
        yield gateway


@pytest.fixture
async def backend(instance: Gateway) -> SimulatedOllama:
    """Give the backend at a walking pace, with an empty log."""
    (backend,) = instance.backends.values()
    await backend.reset()
    await backend.change(token_interval_ms=PACE_MS)
    return backend


@pytest.fixture
async def limited(instance: Gateway) -> AsyncIterator[Limited]:
    async with AsyncExitStack() as stack:
        yield Limited(instance, stack)


async def _leave(gateway: Gateway, backend: SimulatedOllama, key: Key, path: str, *, after: int) -> int:
    """Leave after so many records, 0 before the head; return how many were received."""
    async with leaving_client(gateway.url) as leaver:
        await leaver.post(path, STREAMS[path], key=key.text)
        received = 0
        if after:
            await leaver.head()
            received = await leaver.records(after)
        else:
            await backend.wait(started=TOKENS + 1)
        leaver.leave()
        return received


@pytest.mark.parametrize("path", STREAMS)
async def test_leaving_at_any_record_costs_what_was_released(
    limited: Limited, backend: SimulatedOllama, path: str
) -> None:
    gateway = limited.gateway
    keys = [await limited.key(tokens_per_day=LARGE) for _ in range(TOKENS + 1)]

    received = await asyncio.gather(
        *(_leave(gateway, backend, key, path, after=index) for index, key in enumerate(keys))
    )

    seen = await backend.requests(ended=len(keys))
    emitted = {each.request_id: each.tokens for each in seen}
    assert len(emitted) == len(keys)
    for key, heard in zip(keys, received, strict=True):
        (row,) = await gateway.rows_of_all(key, 1)
        assert row.outcome in {"client_closed", "completed"}  # the end comes with the last record
        assert row.tokens_in == PROMPT_TOKENS
        assert heard <= row.tokens_out <= emitted[str(row.request_id)]
        await moved_to(row.tokens_in + row.tokens_out, await limited.client(key))


@pytest.mark.parametrize("shape", [NATIVE_WHOLE, OPENAI_WHOLE], ids=str)
async def test_leaving_an_unstreamed_answer_costs_what_was_generated_meanwhile(
    limited: Limited, backend: SimulatedOllama, shape: Shape
) -> None:
    gateway = limited.gateway
    # From here on the gateway knows this model's speed, which the backend tells apart from all waiting.
    await ask(await limited.new(tokens_per_day=LARGE), NATIVE_WHOLE, PACED)
    await backend.change(tokens=1000)
    await backend.clear()
    key = await limited.key(tokens_per_day=LARGE)

    async with leaving_client(gateway.url) as leaver:
        await leaver.post(shape.path, shape.body(PACED), key=key.text)
        await backend.wait(started=1)
        await _time_of(4, backend, gateway)
        leaver.leave()

    (row,) = await gateway.rows_of_all(key, 1)
    assert (row.outcome, row.estimated, row.tokens_in) == ("client_closed", True, PROMPT_TOKENS)
    assert 4 <= row.tokens_out < 1000
    await moved_to(row.tokens_in + row.tokens_out, await limited.client(key))


async def _time_of(tokens: int, backend: SimulatedOllama, gateway: Gateway) -> None:
    """Let a model take its time for so many tokens: that is what is charged for."""
    async with (
        gateway.client() as client,
        client.stream("POST", f"{backend.url}/api/chat", json=CHAT) as reply,
    ):
        lines = reply.aiter_lines()
        for _ in range(tokens):
            await anext(lines)


async def test_leaving_before_anything_came_costs_the_prompt(
    limited: Limited, backend: SimulatedOllama
) -> None:
    gateway = limited.gateway
    await backend.order("hang", path="/api/chat")
    key = await limited.key(tokens_per_day=LARGE)

    async with leaving_client(gateway.url) as leaver:
        await leaver.post("/api/chat", CHAT, key=key.text)
        await backend.wait(started=1)
        leaver.leave()

    (row,) = await gateway.rows_of_all(key, 1)
    assert (row.outcome, row.tokens_in, row.tokens_out) == ("client_closed", PROMPT_TOKENS, 0)
    await moved_to(PROMPT_TOKENS, await limited.client(key))


async def test_leaving_in_the_middle_of_the_body_costs_nothing(
    limited: Limited, backend: SimulatedOllama
) -> None:
    gateway = limited.gateway
    key = await limited.key(tokens_per_day=LARGE, requests_per_minute=2)

    async with leaving_client(gateway.url) as leaver:
        await leaver.send(
            f"POST /api/chat HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {key.text}\r\n"
            'Content-Length: 1000\r\n\r\n{"model":'.encode()
        )
        leaver.leave()

    reply = await ask(await limited.client(key))
    assert reply.headers["x-ratelimit-remaining-requests"] == "1"
    await gateway.rows_of_all(key, 1)
    assert len(await backend.requests()) == 1
