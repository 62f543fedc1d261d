"""`/v1/responses`, `/v1/messages` and its count of tokens: what is particular to them, through the running gateway.

What they share with the other families is tested with those. Tests that carry a case number follow the
conformance list of the contract.
"""

import asyncio
import json
import sys
from typing import Any, Final

import httpx
import pytest

from domain.authorize import NO_WEB_TOOLS
from tests.journeys.test_boundary import untouched
from tests.support.asking import (
    ANTHROPIC_STREAM,
    ANTHROPIC_WHOLE,
    MESSAGES,
    MODEL,
    PROMPT_CHARS,
    RESPONSES_STREAM,
    RESPONSES_WHOLE,
    Shape,
    answer_of,
    ask,
    ends_in_error,
    is_refusal,
    records,
    words_of,
)
from tests.support.fleet import COMMON, LONER, SOLO, TOKENS_PER_ANSWER, Fleet
from tests.support.gateway import Gateway, Key, request_id
from tests.support.leaving_client import leaving_client

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BOTH: Final = (RESPONSES_WHOLE, ANTHROPIC_WHOLE)
COUNT: Final = "/v1/messages/count_tokens"
both = pytest.mark.parametrize("shape", BOTH, ids=str)


async def seen_body(fleet: Fleet) -> dict[str, Any]:
    """Return the body of the one request that c saw."""
    (seen,) = await fleet.c.requests()
    assert seen.body is not None
    return seen.body


# what Anthropic's clients do besides


async def test_case_04_who_has_no_key_is_told_in_anthropic_s_words(gateway: Gateway) -> None:
    async with gateway.client() as stranger:
        reply = await ask(stranger, ANTHROPIC_WHOLE)

    assert reply.status_code == 401
    assert reply.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    "carriers", [("x-api-key",), ("authorization",), ("x-api-key", "authorization")], ids=str
)
async def test_case_05_a_key_comes_in_either_header_and_nothing_of_the_client_s_headers_goes_on(
    fleet: Fleet, gateway: Gateway, everything: Key, carriers: tuple[str, ...]
) -> None:
    keys = {"x-api-key": everything.text, "authorization": f"Bearer {everything.text}"}
    headers = {name: keys[name] for name in carriers} | {
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "interleaved-thinking-2025-05-14",
        "origin": "https://example.org",
        "cookie": "a=b",
    }
    async with gateway.client() as client:
        reply = await client.post(
            f"{ANTHROPIC_WHOLE.path}?beta=true", json=ANTHROPIC_WHOLE.body(LONER), headers=headers
        )

    assert reply.status_code == 200
    (seen,) = await fleet.c.requests()
    sent = {name.lower() for name, _ in seen.headers}
    assert (seen.path, seen.query) == ("/v1/messages", "")
    assert not sent & {*keys, "anthropic-version", "anthropic-beta", "origin", "cookie"}


async def test_claude_code_finds_the_base_alive_without_a_key(gateway: Gateway) -> None:
    async with gateway.client() as stranger:
        reply = await stranger.head("/?beta=true")

    assert (reply.status_code, reply.content) == (200, b"")


@pytest.mark.parametrize(
    ("path", "family"),
    [("/v1/messages/batches", ANTHROPIC_WHOLE), ("/v1/responses/resp_1", RESPONSES_WHOLE)],
)
async def test_case_09_what_is_not_there_is_a_404_in_the_family_s_shape(
    gateway: Gateway, path: str, family: Shape
) -> None:
    async with gateway.client() as stranger:
        reply = await stranger.get(path)

    assert (reply.status_code, is_refusal(family, reply)) == (404, True)


@both
async def test_case_09_a_wrong_method_is_told_the_right_one(client: httpx.AsyncClient, shape: Shape) -> None:
    reply = await client.get(shape.path)

    assert (reply.status_code, reply.headers["allow"], is_refusal(shape, reply)) == (405, "POST", True)


# compressed requests, as Codex sends them


def compressed(body: object) -> bytes:
    return zstd.compress(json.dumps(body).encode())


async def send_zstd(
    client: httpx.AsyncClient, path: str, content: bytes, encoding: str = "zstd"
) -> httpx.Response:
    return await client.post(path, content=content, headers={"content-encoding": encoding})


async def test_case_17_a_zstd_body_is_decoded_and_goes_on_plain(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    reply = await send_zstd(client, RESPONSES_STREAM.path, compressed(RESPONSES_STREAM.body(LONER)))

    assert (reply.status_code, answer_of(RESPONSES_STREAM, reply)[:2]) == (200, "c ")
    (seen,) = await fleet.c.requests()
    assert "content-encoding" not in {name.lower() for name, _ in seen.headers}
    assert json.loads(seen.raw_body)["model"] == LONER


async def test_case_17_a_forbidden_model_in_a_zstd_body_is_forbidden(fleet: Fleet, gateway: Gateway) -> None:
    key = await gateway.tenant(LONER)
    async with gateway.client(key) as client:
        reply = await send_zstd(client, RESPONSES_WHOLE.path, compressed(RESPONSES_WHOLE.body(SOLO)))

    assert (reply.status_code, is_refusal(RESPONSES_WHOLE, reply)) == (403, True)
    assert await untouched(fleet)


@both
async def test_case_17_a_zstd_body_that_is_too_large_is_a_413(
    fleet: Fleet, client: httpx.AsyncClient, shape: Shape
) -> None:
    bomb = compressed(shape.body(padding=" " * (5 << 20)))
    assert len(bomb) < 10_000

    reply = await send_zstd(client, shape.path, bomb)

    assert (reply.status_code, is_refusal(shape, reply)) == (413, True)
    assert await untouched(fleet)


@pytest.mark.parametrize(
    ("path", "encoding", "status"),
    [("/v1/responses", "gzip", 415), ("/api/chat", "zstd", 415), ("/v1/responses", "zstd", 400)],
)
async def test_case_17_any_other_compression_is_refused(
    fleet: Fleet, client: httpx.AsyncClient, path: str, encoding: str, status: int
) -> None:
    assert (await send_zstd(client, path, b"\x1f\x8b\x08", encoding)).status_code == status
    assert await untouched(fleet)


# what is sent on, and booked


@pytest.mark.parametrize("cap", [None, -1, 0, 5, 10**9])
async def test_case_26_a_response_s_output_cap_is_positive(
    fleet: Fleet, client: httpx.AsyncClient, cap: int | None
) -> None:
    await ask(client, RESPONSES_WHOLE, LONER, max_output_tokens=cap)

    sent = (await seen_body(fleet))["max_output_tokens"]
    assert 0 < sent <= (5 if cap == 5 else 10_000_000)


@pytest.mark.parametrize("cap", [None, -1, 0])
async def test_case_26_a_message_without_an_output_cap_is_refused(
    fleet: Fleet, client: httpx.AsyncClient, cap: int | None
) -> None:
    reply = await ask(client, ANTHROPIC_WHOLE, LONER, max_tokens=cap)

    assert (reply.status_code, is_refusal(ANTHROPIC_WHOLE, reply)) == (400, True)
    assert await untouched(fleet)


@pytest.mark.parametrize(
    "shape", [RESPONSES_STREAM, RESPONSES_WHOLE, ANTHROPIC_STREAM, ANTHROPIC_WHOLE], ids=str
)
async def test_case_31_the_counts_at_the_end_are_booked(
    fleet: Fleet, client: httpx.AsyncClient, shape: Shape
) -> None:
    reply = await ask(client, shape)

    row = await fleet.row(reply)
    assert (row.api_family, row.route, row.model) == (shape.family, shape.path, "llama3.2:latest")
    assert (row.outcome, row.estimated) == ("completed", False)
    assert (row.tokens_in, row.tokens_out) == (PROMPT_CHARS // 4, TOKENS_PER_ANSWER)


async def test_case_31_what_the_first_event_guesses_is_not_booked(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    reply = await ask(client, ANTHROPIC_STREAM)

    guess = records(reply)[0]["message"]["usage"]["input_tokens"]
    assert guess > 1000
    assert (await fleet.row(reply)).tokens_in < guess


@both
async def test_a_failure_of_a_backend_s_cloud_comes_in_another_shape_and_is_passed_over(
    fleet: Fleet, client: httpx.AsyncClient, shape: Shape
) -> None:
    await fleet.even_out()
    said = '{"error":"ollama cloud is disabled","signin_url":"https://example.org/secret"}'
    await fleet.a.order("status", status=403, raw_body=said, content_type="application/json")

    reply = await ask(client, shape, COMMON)

    assert answer_of(shape, reply).startswith("b ")
    assert "secret" not in reply.text


async def test_case_40_a_body_over_the_limit_is_too_large_in_anthropic_s_words(
    fleet: Fleet, gateway: Gateway, everything: Key
) -> None:
    async with leaving_client(gateway.url) as client:
        await client.send(
            f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nx-api-key: {everything.text}\r\n"
            "Content-Length: 99999999\r\n\r\n".encode()
        )
        status, headers = await client.head()
        body = json.loads(await client.body(headers))

    assert (status, body["error"]["type"], body["request_id"]) == (
        413,
        "request_too_large",
        headers["x-request-id"],
    )
    assert await untouched(fleet)


@pytest.mark.parametrize("shape", [RESPONSES_STREAM, ANTHROPIC_STREAM], ids=str)
async def test_a_key_that_is_revoked_takes_leave_in_band(
    fleet: Fleet, gateway: Gateway, shape: Shape
) -> None:
    await fleet.c.change(token_interval_ms=20, tokens=900)
    key = await gateway.tenant()
    async with gateway.client(key) as client:
        asking = asyncio.create_task(ask(client, shape, LONER))
        await fleet.c.wait(tokens=3)
        await gateway.revoke(key)
        async with asyncio.timeout(10):
            reply = await asking

    assert ends_in_error(shape, reply)
    assert "the key is no longer valid" in reply.text
    assert (await fleet.row(reply)).outcome == "cut"


# what is refused because it would mislead, or leave the house


@pytest.mark.parametrize(
    "field",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"background": True},
        {"prompt": {"id": "p"}},
    ],
    ids=str,
)
async def test_what_leans_on_an_earlier_response_is_refused(
    fleet: Fleet, client: httpx.AsyncClient, field: dict[str, Any]
) -> None:
    reply = await ask(client, RESPONSES_WHOLE, LONER, **field)

    assert (reply.status_code, is_refusal(RESPONSES_WHOLE, reply)) == (400, True)
    assert next(iter(field)) in reply.json()["error"]["message"]
    assert await untouched(fleet)


async def test_a_response_that_may_be_stored_says_that_it_was_not(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    reply = await ask(client, RESPONSES_WHOLE, LONER, store=True)

    assert (reply.status_code, reply.json()["store"]) == (200, False)
    assert "store" not in await seen_body(fleet)


@both
@pytest.mark.parametrize("kind", ["web_search", "web_search_20250305", "web_fetch_20250910"])
async def test_case_12_a_tool_of_the_cloud_s_never_leaves_where_no_backend_may(
    fleet: Fleet, client: httpx.AsyncClient, shape: Shape, kind: str
) -> None:
    reply = await ask(client, shape, SOLO, tools=[{"type": kind, "name": "web"}])

    assert (reply.status_code, is_refusal(shape, reply)) == (400, True)
    assert reply.json()["error"]["message"] == NO_WEB_TOOLS
    assert await untouched(fleet)


@both
async def test_a_tool_of_the_cloud_s_goes_to_no_backend_but_those_that_may(
    fleet: Fleet, client: httpx.AsyncClient, shape: Shape
) -> None:
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    served = await ask(client, shape, COMMON, tools=tools)
    await fleet.c.order("garbage", count=1, path=shape.path)
    failed = await ask(client, shape, COMMON, tools=tools)

    assert (served.status_code, failed.status_code) == (200, 502)
    assert set(await fleet.attempts()) == {"c"}


# counting tokens


def counted(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": MESSAGES, **fields}


async def test_tokens_are_estimated_without_asking_anybody(fleet: Fleet, client: httpx.AsyncClient) -> None:
    reply = await client.post(f"{COUNT}?beta=true", json=counted(system="x" * 400))

    assert (reply.status_code, reply.json()) == (200, {"input_tokens": (PROMPT_CHARS + 400) // 4 + 2 * 4})
    assert await untouched(fleet)


@pytest.mark.parametrize("model", [SOLO, "nobody-has-this", "llama3.2:cloud", ""])
async def test_who_may_not_use_a_model_may_not_count_for_it(gateway: Gateway, model: str) -> None:
    key = await gateway.tenant(MODEL)
    async with gateway.client(key) as client:
        asked = await ask(client, ANTHROPIC_WHOLE, model)
        counting = await client.post(COUNT, json=counted(model=model))

    assert (counting.status_code, words_of(counting)) == (403, words_of(asked))


async def test_who_has_no_key_may_not_count(gateway: Gateway) -> None:
    async with gateway.client() as stranger:
        reply = await stranger.post(COUNT, json=counted())

    assert (reply.status_code, is_refusal(ANTHROPIC_WHOLE, reply)) == (401, True)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"model":"llama3.2"}', b'{"model":"llama3.2","messages":[]}'])
async def test_a_count_of_nothing_is_a_400(client: httpx.AsyncClient, body: bytes) -> None:
    reply = await client.post(COUNT, content=body)

    assert (reply.status_code, is_refusal(ANTHROPIC_WHOLE, reply)) == (400, True)


async def test_a_count_is_not_booked(gateway: Gateway, fleet: Fleet, client: httpx.AsyncClient) -> None:
    counting = await client.post(COUNT, json=counted())
    await fleet.row(await ask(client, ANTHROPIC_WHOLE))

    assert await gateway.rows_now([request_id(counting)]) == []
