"""What tenants are shown, what is sent on and booked, and what operators see.

Tests that carry a case number follow the conformance list of the contract.
"""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.support.asking import (
    MESSAGES,
    MODEL,
    NATIVE_STREAM,
    NATIVE_WHOLE,
    OPENAI_STREAM,
    OPENAI_WHOLE,
    ask,
    is_refusal,
)
from tests.support.fleet import DUO, EMBEDDER, LONER, SOLO, TOKENS_PER_ANSWER, Fleet
from tests.support.gateway import METRICS_TOKEN, Gateway, Key, request_id

# lists


async def test_case_20_lists_show_what_the_key_may_use_once(gateway: Gateway) -> None:
    key = await gateway.tenant("llama3.2:latest", "duo:*")
    async with gateway.client(key) as client:
        tags = (await client.get("/api/tags")).json()
        models = (await client.get("/v1/models")).json()

    assert sorted(model["name"] for model in tags["models"]) == [DUO, "llama3.2:latest"]
    assert sorted(model["id"] for model in models["data"]) == [DUO, "llama3.2:latest"]


async def test_case_20_an_empty_list_is_a_list(gateway: Gateway) -> None:
    key = await gateway.tenant("nothing-like-it")
    async with gateway.client(key) as client:
        assert (await client.get("/api/tags")).json() == {"models": []}
        assert (await client.get("/v1/models")).json() == {"object": "list", "data": []}


@pytest.mark.parametrize(
    ("spelling", "status"), [("llama3.2", 200), ("library%2Fllama3.2", 200), ("solo:1b", 403)]
)
async def test_case_19_one_model_of_the_list(gateway: Gateway, spelling: str, status: int) -> None:
    key = await gateway.tenant("llama3.2:latest")
    async with gateway.client(key) as client:
        reply = await client.get(f"/v1/models/{spelling}")

    assert reply.status_code == status
    assert is_refusal(OPENAI_WHOLE, reply) == (status == 403)


# what is sent on, and booked


@pytest.mark.parametrize("cap", [None, -1, 0, 10**9, 5])
async def test_case_26_a_native_output_cap_is_positive(
    fleet: Fleet, client: httpx.AsyncClient, cap: int | None
) -> None:
    options = {} if cap is None else {"options": {"num_predict": cap}}
    await ask(client, NATIVE_WHOLE, LONER, **options)

    (seen,) = await fleet.c.requests()
    assert seen.body is not None
    sent = seen.body["options"]["num_predict"]
    assert 0 < sent <= (5 if cap == 5 else 10**9)


async def test_case_26_max_completion_tokens_becomes_max_tokens(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    await ask(client, OPENAI_WHOLE, LONER, max_completion_tokens=10)

    (seen,) = await fleet.c.requests()
    assert seen.body is not None
    assert (seen.body["max_tokens"], "max_completion_tokens" in seen.body) == (10, False)


async def test_case_27_native_streams_by_default(fleet: Fleet, client: httpx.AsyncClient) -> None:
    reply = await client.post("/api/chat", json={"model": LONER, "messages": MESSAGES})

    assert reply.headers["content-type"] == "application/x-ndjson"
    assert reply.content.count(b"\n") == TOKENS_PER_ANSWER + 1
    assert (await fleet.row(reply)).tokens_out == TOKENS_PER_ANSWER


EMBEDDINGS: dict[str, dict[str, Any]] = {
    "/api/embed": {"input": ["one two three four", "five"]},
    "/api/embeddings": {"prompt": "one two three four"},
    "/v1/embeddings": {"input": "one two three four", "encoding_format": "base64"},
}


@pytest.mark.parametrize("path", EMBEDDINGS)
async def test_case_32_embeddings_are_booked_by_their_prompt(
    fleet: Fleet, client: httpx.AsyncClient, path: str
) -> None:
    reply = await client.post(path, json={"model": EMBEDDER, **EMBEDDINGS[path]})

    assert reply.status_code == 200
    row = await fleet.row(reply)
    # The old route reports no usage at all.
    assert (row.outcome, row.tokens_out, row.estimated) == ("completed", 0, path == "/api/embeddings")
    assert row.tokens_in > 0


async def test_a_row_says_who_asked_for_what_and_where(
    fleet: Fleet, everything: Key, client: httpx.AsyncClient
) -> None:
    reply = await ask(client, OPENAI_STREAM, SOLO)

    row = await fleet.row(reply)
    assert (row.tenant_id, row.key_id) == (everything.tenant_id, everything.key_id)
    assert (row.model, row.api_family, row.route) == (SOLO, "openai", "/v1/chat/completions")
    assert (row.backend, row.attempted_backends, len(row.model_digest)) == ("a", ["a"], 64)
    assert row.started_at <= row.ended_at
    assert 0 < (row.first_token_us or 0) <= (row.total_us or 0)


# operators


@pytest.mark.parametrize("given", [None, "Bearer", "Bearer wrong", METRICS_TOKEN], ids=str)
async def test_metrics_are_not_there_without_their_token(gateway: Gateway, given: str | None) -> None:
    async with gateway.client() as stranger:
        reply = await stranger.get("/metrics", headers={} if given is None else {"Authorization": given})
        absent = await stranger.get("/nothing")

    assert (reply.status_code, reply.content) == (404, absent.content)


async def test_metrics_count_what_happened(fleet: Fleet, gateway: Gateway, client: httpx.AsyncClient) -> None:
    await fleet.even_out()
    before = await gateway.metrics()
    await fleet.a.order("busy")
    await ask(client, NATIVE_WHOLE)
    await fleet.b.order("hang", after=1)
    await fleet.a.order("busy")
    in_flight = asyncio.create_task(ask(client, NATIVE_STREAM))
    await fleet.b.wait(tokens=TOKENS_PER_ANSWER + 1)
    after = await gateway.metrics()
    in_flight.cancel()
    await asyncio.gather(in_flight, return_exceptions=True)

    def grown(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    assert grown('nng_requests_total{route="/api/chat",status="200"}') == 1
    assert grown('nng_admitted_requests_total{outcome="completed",route="/api/chat"}') == 1
    assert grown('nng_time_to_first_token_seconds_count{route="/api/chat"}') >= 1
    assert grown('nng_tokens_total{direction="out",source="measured"}') == TOKENS_PER_ANSWER
    assert grown('nng_failovers_total{backend="a"}') == 2
    assert grown('nng_attempts_total{backend="a",result="busy"}') == 2
    assert after["nng_in_flight_requests"] == 1
    assert after['nng_backend_up{backend="a"}'] == 1


async def test_metrics_name_no_path_that_a_stranger_invents(gateway: Gateway) -> None:
    async with gateway.client() as stranger:
        for number in range(50):
            await stranger.get(f"/invented-{number}")

    assert not any("invented" in name for name in await gateway.metrics())


async def test_no_key_and_no_prompt_stands_in_the_log(
    gateway: Gateway, everything: Key, client: httpx.AsyncClient
) -> None:
    prompt = "canary-of-a-prompt"
    reply = await client.post(
        "/api/chat?secret=canary-of-a-query",
        json={"model": MODEL, "messages": [{"role": "user", "content": prompt}], "stream": False},
    )
    assert reply.status_code == 200
    await gateway.row(reply)

    log = gateway.app.log() + gateway.worker.log()
    for secret in (
        prompt,
        "canary-of-a-query",
        everything.text,
        everything.text.split("_")[2],
        METRICS_TOKEN,
    ):
        assert secret not in log


async def test_every_line_of_the_log_is_one_json_object(gateway: Gateway) -> None:
    for line in gateway.app.log().splitlines():
        assert isinstance(json.loads(line), dict)


async def test_every_answer_carries_an_id_of_ours(client: httpx.AsyncClient) -> None:
    asked = [
        ("GET", "/"),
        ("GET", "/api/tags"),
        ("GET", "/nothing"),
        ("GET", "/api/chat"),
        ("GET", "/readyz"),
    ]
    replies = [await client.request(*what, headers={"X-Request-ID": "theirs"}) for what in asked]

    assert len({request_id(reply) for reply in replies}) == len(asked)
