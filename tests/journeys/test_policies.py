"""What tenants can do to shared models through the running gateway: nothing, unless an operator lets them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from domain.option_rules import checked_rule
from domain.tenants import Actor
from tests.support.asking import MESSAGES, MODEL, NATIVE_WHOLE, OPENAI_WHOLE, SHAPES, Shape, ask, is_refusal
from tests.support.fleet import EMBEDDER, Fleet
from tests.support.gateway import Gateway, Key

DEFAULT_CAP = 4096
ON_TIME_S = 10.0


async def set_rule(
    gateway: Gateway, key: Key, field: str, rule: dict[str, Any], *, pattern: str | None = None
) -> None:
    async with gateway.database.unit_of_work(Actor("test")) as work:
        await work.policies(key.tenant_id).set(field, checked_rule(field, rule), pattern=pattern)


class Ruled:
    """A tenant with rules of its own, set before its first request."""

    def __init__(self, gateway: Gateway, stack: AsyncExitStack) -> None:
        self._gateway = gateway
        self._stack = stack

    async def __call__(self, *grants: str, **rules: dict[str, Any]) -> httpx.AsyncClient:
        """Return a client; rules stand at the tenant's first grant, or at the tenant if it has none."""
        key = await self._gateway.tenant(*grants)
        for field, rule in rules.items():
            await set_rule(self._gateway, key, field, rule, pattern=grants[0] if grants else None)
        return await self._stack.enter_async_context(self._gateway.client(key))


@pytest.fixture
async def ruled(gateway: Gateway) -> AsyncIterator[Ruled]:
    async with AsyncExitStack() as stack:
        yield Ruled(gateway, stack)


async def seen(fleet: Fleet) -> list[dict[str, Any]]:
    """Return the bodies that reached any backend."""
    return [request.body or {} for requests in (await fleet.asked()).values() for request in requests]


async def options_seen(fleet: Fleet) -> list[dict[str, Any]]:
    return [body.get("options", {}) for body in await seen(fleet)]


# -- 23: unloading

UNLOADS = [
    ("/api/generate", {}, "response"),
    ("/api/generate", {"prompt": ""}, "response"),
    ("/api/chat", {"messages": []}, "message"),
]


@pytest.mark.parametrize(("path", "fields", "answer"), UNLOADS)
@pytest.mark.parametrize("keep_alive", [0, "0s"])
async def test_case_23_an_unload_is_answered_and_goes_no_further(
    client: httpx.AsyncClient,
    fleet: Fleet,
    path: str,
    fields: dict[str, Any],
    answer: str,
    *,
    keep_alive: object,
) -> None:
    reply = await client.post(path, json={"model": MODEL, "keep_alive": keep_alive, **fields})

    assert reply.status_code == httpx.codes.OK
    assert reply.json().keys() == {"model", "created_at", answer, "done", "done_reason"}
    assert (reply.json()["done"], reply.json()["done_reason"]) == (True, "unload")
    assert await seen(fleet) == []


async def test_case_23_an_operator_may_let_a_tenant_unload(ruled: Ruled, fleet: Fleet) -> None:
    client = await ruled(keep_alive={"action": "allow"})

    reply = await client.post("/api/generate", json={"model": MODEL, "keep_alive": 0})
    assert reply.json()["done_reason"] == "unload"
    assert [body["keep_alive"] for body in await seen(fleet)] == [0]


# -- 24: keep_alive


@pytest.mark.parametrize("keep_alive", [-1, 0, "24h", 99_999])
async def test_case_24_keep_alive_never_reaches_a_backend(
    client: httpx.AsyncClient, fleet: Fleet, keep_alive: object
) -> None:
    for reply in (
        await ask(client, keep_alive=keep_alive),
        await client.post("/api/embed", json={"model": EMBEDDER, "input": "x", "keep_alive": keep_alive}),
    ):
        assert reply.status_code == httpx.codes.OK

    assert [body for body in await seen(fleet) if "keep_alive" in body] == []


async def test_case_24_a_clamped_keep_alive_neither_unloads_nor_pins(ruled: Ruled, fleet: Fleet) -> None:
    client = await ruled(keep_alive={"action": "clamp", "min": "5m", "max": "30m"})
    for keep_alive in (-1, 0, "24h", 99_999, "10m"):
        await ask(client, keep_alive=keep_alive)

    assert [body["keep_alive"] for body in await seen(fleet)] == ["30m", "5m", "30m", "30m", "10m"]


@pytest.mark.parametrize("keep_alive", ["300", True])
async def test_case_24_a_keep_alive_that_ollama_refuses_is_refused(
    client: httpx.AsyncClient, fleet: Fleet, keep_alive: object
) -> None:
    reply = await ask(client, keep_alive=keep_alive)

    assert reply.status_code == httpx.codes.BAD_REQUEST
    assert "keep_alive" in reply.json()["error"]
    assert await seen(fleet) == []


# -- 25: options that load the model anew


@pytest.mark.parametrize(
    "option", ["num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict", "use_mmap"]
)
async def test_case_25_an_option_that_reloads_the_model_reaches_no_backend(
    client: httpx.AsyncClient, fleet: Fleet, option: str
) -> None:
    await ask(client, options={option: 1, "seed": 7})

    assert await options_seen(fleet) == [{"seed": 7, "num_predict": DEFAULT_CAP}]


async def test_case_25_a_pinned_option_is_the_same_for_every_tenant(ruled: Ruled, fleet: Fleet) -> None:
    pinned = {"num_ctx": {"action": "set", "value": 8192}, "num_gpu": {"action": "set", "value": 20}}
    for options in ({"num_ctx": 2048, "num_gpu": 1, "num_thread": 2}, {"num_ctx": 131_072}, None):
        await ask(await ruled("llama3*", **pinned), options=options)

    assert await options_seen(fleet) == [{"num_ctx": 8192, "num_gpu": 20, "num_predict": DEFAULT_CAP}] * 3


# -- 26: the output cap


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape.family != "anthropic"], ids=str)
async def test_case_26_a_request_without_a_cap_gets_the_default(
    client: httpx.AsyncClient, fleet: Fleet, shape: Shape
) -> None:
    assert (await ask(client, shape)).status_code == httpx.codes.OK

    (body,) = await seen(fleet)
    assert body.items() >= shape.cap(DEFAULT_CAP).items()


async def test_case_26_a_backend_is_never_asked_for_more_than_the_maximum(ruled: Ruled, fleet: Fleet) -> None:
    client = await ruled(num_predict={"action": "clamp", "max": 50, "value": 20})
    for named in (-1, 0, 10, 50, 51, 1e9):
        await ask(client, options={"num_predict": named})

    assert [options["num_predict"] for options in await options_seen(fleet)] == [20, 20, 10, 50, 50, 50]


@pytest.mark.parametrize(
    ("fields", "forwarded"),
    [
        ({"max_completion_tokens": 10}, 10),
        ({"max_completion_tokens": 1000}, 50),
        ({"max_tokens": 10**9}, 50),
        ({"max_tokens": 0}, 20),
        ({}, 20),
    ],
)
async def test_case_26_openais_words_for_the_cap_are_capped_too(
    ruled: Ruled, fleet: Fleet, fields: dict[str, Any], forwarded: int
) -> None:
    client = await ruled(num_predict={"action": "clamp", "max": 50, "value": 20})
    await ask(client, OPENAI_WHOLE, **fields)

    (body,) = await seen(fleet)
    assert body["max_tokens"] == forwarded
    assert "max_completion_tokens" not in body


async def test_case_26_an_answer_ends_at_its_cap(ruled: Ruled) -> None:
    client = await ruled(num_predict={"action": "clamp", "max": 3})

    reply = (await ask(client)).json()
    assert (reply["eval_count"], reply["done_reason"]) == (3, "length")


# -- refusals and changes


@pytest.mark.parametrize(
    ("shape", "fields", "name"),
    [
        (NATIVE_WHOLE, {"options": {"num_ctx": 4096}}, "num_ctx"),
        (NATIVE_WHOLE, {"think": False}, "think"),
        (OPENAI_WHOLE, {"reasoning_effort": "low"}, "reasoning_effort"),
        (OPENAI_WHOLE, {"max_tokens": 5}, "max_tokens"),
    ],
)
async def test_a_rejected_field_is_named_in_the_shape_of_its_family(
    ruled: Ruled, fleet: Fleet, shape: Shape, fields: dict[str, Any], name: str
) -> None:
    reject = {"action": "reject"}
    client = await ruled(num_ctx=reject, think=reject, num_predict=reject)
    reply = await ask(client, shape, **fields)

    assert reply.status_code == httpx.codes.BAD_REQUEST
    assert is_refusal(shape, reply)
    assert f"'{name}'" in reply.text
    assert await seen(fleet) == []


async def test_a_model_that_is_not_granted_is_no_less_forbidden(ruled: Ruled) -> None:
    client = await ruled("llama3*", think={"action": "reject"})

    assert (await ask(client, model="duo:7b", think=True)).status_code == httpx.codes.FORBIDDEN


async def test_a_change_of_policy_meets_new_requests_within_moments(gateway: Gateway, fleet: Fleet) -> None:
    key = await gateway.tenant()
    async with gateway.client(key) as client:
        await fleet.a.order("slow", chunk_delay_ms=100)
        body = {"model": MODEL, "messages": MESSAGES, "keep_alive": "5m"}
        async with client.stream("POST", "/api/chat", json=body) as running:
            lines = running.aiter_lines()
            await anext(lines)
            await set_rule(gateway, key, "keep_alive", {"action": "reject"})
            async with asyncio.timeout(ON_TIME_S):
                while (  # noqa: ASYNC110 - another process cannot set our events
                    await ask(client, keep_alive="5m")
                ).status_code != httpx.codes.BAD_REQUEST:
                    await asyncio.sleep(0.02)
            last = [line async for line in lines][-1]

    assert '"done":true' in last
