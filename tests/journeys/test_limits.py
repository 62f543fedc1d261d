"""Limits through the running gateway: who is let in, what is said, and that what was not used comes back."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final

import httpx
import pytest

from tests.support.asking import (
    MODEL,
    NATIVE_STREAM,
    NATIVE_WHOLE,
    OPENAI_WHOLE,
    SHAPES,
    Shape,
    ask,
    is_refusal,
)
from tests.support.gateway import Gateway
from tests.support.homes import Home
from tests.support.leaving_client import leaving_client
from tests.support.limited import LARGE, Limited, reserved_by, tokens_left
from tests.support.ollama import SimulatedOllama

TOO_MANY: Final = httpx.codes.TOO_MANY_REQUESTS
WITHIN_S: Final = 10.0
GIVEN_BACK_S: Final = 15.0
SLOWLY_MS: Final = 300
ASKED: Final[dict[str, Any]] = {"options": {"num_predict": 100}}


@pytest.fixture(scope="module")
async def instance(home: Home) -> AsyncIterator[Gateway]:
    async with home.running(SimulatedOllama.start(models=f"{MODEL}:latest", tokens=40)) as gateway:
        yield gateway


@pytest.fixture
async def backend(instance: Gateway) -> SimulatedOllama:
    """Give the backend as it was started, with an empty log."""
    (backend,) = instance.backends.values()
    await backend.reset()
    return backend


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def limited(instance: Gateway, backend: SimulatedOllama, stack: AsyncExitStack) -> Limited:
    assert backend.url
    return Limited(instance, stack)


async def opened(stack: AsyncExitStack, client: httpx.AsyncClient) -> httpx.Response:
    """Start a stream and return its head; it is left when the stack ends."""
    return await stack.enter_async_context(
        client.stream("POST", NATIVE_STREAM.path, json=NATIVE_STREAM.body(**ASKED))
    )


async def served(client: httpx.AsyncClient, *, within_s: float = WITHIN_S) -> httpx.Response:
    """Ask until there is an answer. Another process cannot set our events."""
    async with asyncio.timeout(within_s):
        while (reply := await ask(client, **ASKED)).status_code != httpx.codes.OK:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return reply


async def reservation(limited: Limited) -> int:
    """Return what a request of this module reserves."""
    return reserved_by(await ask(await limited.new(tokens_per_day=LARGE), **ASKED))


# -- what is refused, and how


@pytest.mark.parametrize("shape", SHAPES, ids=str)
async def test_case_40_requests_per_minute(limited: Limited, shape: Shape) -> None:
    client = await limited.new(requests_per_minute=2)
    first, second, third = [await ask(client, shape) for _ in range(3)]

    assert [first.status_code, second.status_code, third.status_code] == [200, 200, TOO_MANY]
    assert [each.headers["x-ratelimit-remaining-requests"] for each in (first, second, third)] == [
        "1",
        "0",
        "0",
    ]
    assert is_refusal(shape, third)
    assert 1 <= int(third.headers["retry-after"]) <= 30
    assert "x-should-retry" not in third.headers


async def test_a_refusal_reaches_no_backend(limited: Limited, backend: SimulatedOllama) -> None:
    client = await limited.new(requests_per_minute=1)
    await ask(client)
    await ask(client)

    assert len(await backend.requests()) == 1


@pytest.mark.parametrize("shape", SHAPES, ids=str)
async def test_case_40_a_spent_day_is_not_worth_another_try(limited: Limited, shape: Shape) -> None:
    client = await limited.new(tokens_per_day=1000)
    first = await ask(client, shape)
    await limited.gateway.row(first)
    second = await ask(client, shape)

    assert (first.status_code, second.status_code) == (httpx.codes.OK, TOO_MANY)
    assert is_refusal(shape, second)
    assert second.headers["x-should-retry"] == "false"
    assert 1 <= int(second.headers["retry-after"]) <= 86_400
    assert second.headers["ratelimit-policy"] == '"tokens-day";q=1000'


async def test_openai_clients_hear_of_a_spent_quota_in_their_words(limited: Limited) -> None:
    client = await limited.new(tokens_per_day=1000)
    await limited.gateway.row(await ask(client, OPENAI_WHOLE))
    error = (await ask(client, OPENAI_WHOLE)).json()["error"]

    assert (error["type"], error["code"]) == ("rate_limit_error", "insufficient_quota")


@pytest.mark.parametrize("shape", [NATIVE_WHOLE, OPENAI_WHOLE], ids=str)
async def test_a_prompt_that_never_fits_is_not_worth_another_try(
    limited: Limited, backend: SimulatedOllama, shape: Shape
) -> None:
    client = await limited.new(tokens_per_minute=500)
    reply = await ask(client, shape, messages=[{"role": "user", "content": "x" * 600}])

    assert reply.status_code == TOO_MANY
    assert is_refusal(shape, reply)
    assert reply.headers["x-should-retry"] == "false"
    assert await backend.requests() == []


async def test_an_answer_says_how_every_limit_stands(limited: Limited) -> None:
    client = await limited.new(requests_per_minute=60, tokens_per_day=LARGE, concurrency=4)
    headers = (await ask(client, **ASKED)).headers

    assert headers["x-ratelimit-limit-requests"] == "60"
    assert headers["x-ratelimit-remaining-requests"] == "59"
    assert headers["x-ratelimit-limit-tokens"] == str(LARGE)
    assert headers["ratelimit"].startswith('"requests";r=59;t=1, "concurrency";r=3, "tokens-day";r=')
    assert headers["ratelimit-policy"] == (
        f'"requests";q=60;w=60, "concurrency";q=4;qu="concurrent-requests", "tokens-day";q={LARGE}'
    )


async def test_who_has_no_limits_hears_of_none(limited: Limited) -> None:
    reply = await ask(await limited.client(await limited.gateway.tenant()))

    assert [name for name in reply.headers if "ratelimit" in name] == []


# -- what is held, and comes back


async def test_a_running_stream_holds_its_place(limited: Limited, backend: SimulatedOllama) -> None:
    await backend.change(token_interval_ms=SLOWLY_MS)
    client = await limited.new(concurrency=1)
    async with AsyncExitStack() as running:
        assert (await opened(running, client)).status_code == httpx.codes.OK
        assert (await ask(client)).status_code == TOO_MANY
    await backend.change(token_interval_ms=0)

    await served(client)


async def test_a_finished_stream_frees_its_place(limited: Limited) -> None:
    client = await limited.new(concurrency=1)
    for _ in range(3):
        await limited.gateway.row(await ask(client, NATIVE_STREAM))
        assert (await ask(client)).status_code == httpx.codes.OK
        await served(client)


async def test_what_was_not_used_comes_back(limited: Limited) -> None:
    client = await limited.new(tokens_per_day=LARGE)
    first = await ask(client, **ASKED)
    row = await limited.gateway.row(first)
    second = await ask(client, **ASKED)
    reserved = reserved_by(first)

    assert row.tokens_in + row.tokens_out < reserved
    assert tokens_left(second) == LARGE - (row.tokens_in + row.tokens_out) - reserved


async def test_a_stream_that_was_left_is_charged_what_was_released(
    limited: Limited, backend: SimulatedOllama
) -> None:
    reserved = await reservation(limited)
    await backend.change(token_interval_ms=50)
    key = await limited.key(tokens_per_day=LARGE)
    async with leaving_client(limited.gateway.url) as leaver:
        await leaver.post("/api/chat", NATIVE_STREAM.body(**ASKED), key=key.text)
        await leaver.head()
        heard = await leaver.records(3)
        leaver.leave()
    (row,) = await limited.gateway.rows_of_all(key, 1)
    await backend.change(token_interval_ms=0)
    after = await ask(await limited.client(key), **ASKED)

    assert heard <= row.tokens_out < 40
    assert tokens_left(after) == LARGE - (row.tokens_in + row.tokens_out) - reserved


async def test_a_request_that_failed_costs_no_output(limited: Limited, backend: SimulatedOllama) -> None:
    reserved = await reservation(limited)
    await backend.order("status", status=500)
    client = await limited.new(tokens_per_day=LARGE)
    failed = await ask(client, **ASKED)
    row = await limited.gateway.row(failed)
    await backend.reset()
    after = await served(client)

    assert row.tokens_out == 0
    assert tokens_left(after) == LARGE - row.tokens_in - reserved


@pytest.mark.parametrize("shape", [NATIVE_WHOLE, OPENAI_WHOLE], ids=str)
async def test_the_backend_is_asked_for_no_more_than_the_limit(
    limited: Limited, backend: SimulatedOllama, shape: Shape
) -> None:
    reply = await ask(await limited.new(tokens_per_day=1000), shape)
    assert (reply.status_code, tokens_left(reply)) == (httpx.codes.OK, 0)
    (seen,) = await backend.requests()
    body: dict[str, Any] = seen.body or {}

    cap = body["options"]["num_predict"] if shape.native else body["max_tokens"]
    assert 900 < cap < 1000


# -- tenant and key


async def test_a_key_has_a_limit_beside_its_tenants(limited: Limited) -> None:
    key = await limited.key(requests_per_minute=100)
    await limited.set(key, {"requests_per_minute": 1}, of_key=True)
    bound, free = [await limited.client(each) for each in (key, await limited.gateway.another_key(key))]
    first, refused, other = await ask(bound), await ask(bound), await ask(free)

    assert first.headers["x-ratelimit-limit-requests"] == "1"
    assert refused.status_code == TOO_MANY
    assert "This key's limit of 1 requests" in refused.json()["error"]
    assert (other.status_code, other.headers["x-ratelimit-remaining-requests"]) == (httpx.codes.OK, "98")


@pytest.mark.parametrize("kind", ["concurrency", "tokens_per_day"])
async def test_case_40_of_many_at_once_exactly_as_many_as_fit_are_let_in(
    limited: Limited, backend: SimulatedOllama, stack: AsyncExitStack, kind: str
) -> None:
    fit = 20
    each = 1 if kind == "concurrency" else await reservation(limited)
    await backend.change(token_interval_ms=SLOWLY_MS)
    client = await limited.new(**{kind: fit * each})
    replies = await asyncio.gather(*(opened(stack, client) for _ in range(60)))

    assert Counter(reply.status_code for reply in replies) == {httpx.codes.OK: fit, TOO_MANY: 60 - fit}


# -- the death of a process


async def test_a_dead_process_gives_back_what_it_held_and_is_charged_once(
    limited: Limited, backend: SimulatedOllama
) -> None:
    gateway = limited.gateway
    reserved = await reservation(limited)
    await backend.change(token_interval_ms=SLOWLY_MS)
    key = await limited.key(concurrency=1, tokens_per_day=LARGE)
    async with leaving_client(gateway.url) as leaver:
        await leaver.post("/api/chat", NATIVE_STREAM.body(**ASKED), key=key.text)
        await leaver.head()
        await leaver.records(2)
        with gateway.app.gone():
            died = time.monotonic()
    await gateway.ready()
    await backend.change(token_interval_ms=0)
    client = await limited.client(key)
    await served(client, within_s=GIVEN_BACK_S - (time.monotonic() - died))
    rows = await gateway.rows_of_all(key, 2)
    after = await ask(client, **ASKED)

    assert Counter(row.outcome for row in rows) == {"lost": 1, "completed": 1}
    assert tokens_left(after) == LARGE - sum(row.tokens_in + row.tokens_out for row in rows) - reserved
