"""Taking a backend out of service: what runs there finishes, what comes goes elsewhere, whatever restarts."""

import time
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.admin import Desk, wait_for
from tests.support.asking import NATIVE_STREAM, NATIVE_WHOLE, answer_of, ask
from tests.support.counts import count
from tests.support.fleet import COMMON, SOLO, Fleet
from tests.support.gateway import Gateway, Key

AT_ONCE_S = 0.5
"""A tenth of what it takes where nobody hears of it but by the job's own rhythm."""


@pytest.fixture
async def desk(gateway: Gateway) -> AsyncIterator[Desk]:
    """Give an operator, who lets everything back in at the end."""
    async with Desk(gateway, await gateway.admin_key(), "198.18.0.1") as desk:
        yield desk
        for name in gateway.backends:
            await desk.post(f"/backends/{name}/undrain", wait="true")


async def drain(desk: Desk, name: str) -> None:
    reply = await desk.post(f"/backends/{name}/drain", {"reason": "a new card"}, wait="true")
    assert (reply.status_code, reply.json()["effective"]) == (200, True), reply.text


async def served_by(client: httpx.AsyncClient) -> str:
    """Return which backend answers."""
    return answer_of(NATIVE_WHOLE, await ask(client, NATIVE_WHOLE, COMMON)).partition(" ")[0]


async def test_a_drained_backend_finishes_what_runs_and_gets_nothing_new_until_it_is_let_back_in(
    fleet: Fleet, gateway: Gateway, client: httpx.AsyncClient, desk: Desk
) -> None:
    await fleet.rest()
    await fleet.a.change(token_interval_ms=100)
    async with client.stream("POST", "/api/chat", json=NATIVE_STREAM.body(COMMON)) as running:
        pieces = running.aiter_bytes()
        first = await anext(pieces)
        await drain(desk, "a")
        elsewhere = await served_by(client)
        assert (await desk.get("/backends/a")).json()["inFlight"] == 1
        gateway.worker.kill()
        gateway.worker.start()
        rest = b"".join([piece async for piece in pieces])
    stream = httpx.Response(running.status_code, headers=running.headers, content=first + rest)

    assert answer_of(NATIVE_STREAM, stream).startswith("a ")
    assert elsewhere == "b"
    await fleet.a.reset()  # as slow as it was it would miss its deadline

    before = (await desk.get("/backends/a")).json()["lastPollAt"]

    async def is_polled() -> bool:
        return bool((await desk.get("/backends/a")).json()["lastPollAt"] > before)

    await wait_for(is_polled, within_s=30)
    assert await served_by(client) == "b"
    assert (await desk.get("/backends/a")).json()["drain"]["reason"] == "a new card"

    assert (await desk.post("/backends/a/undrain", wait="true")).json()["effective"]
    assert await served_by(client) == "a"
    row = await gateway.row(stream, within_s=30)
    assert (row.backend, row.outcome) == ("a", "completed")


async def test_what_only_a_drained_backend_hosts_is_gone_as_if_nobody_hosted_it(
    client: httpx.AsyncClient, desk: Desk, gateway: Gateway, everything: Key
) -> None:
    del gateway, everything
    await drain(desk, "a")

    listed = {model["name"] for model in (await client.get("/api/tags")).json()["models"]}
    refused = await ask(client, NATIVE_WHOLE, SOLO)
    absent = await ask(client, NATIVE_WHOLE, "never:1b")

    assert f"{COMMON}:latest" in listed
    assert SOLO not in listed
    assert refused.status_code == absent.status_code == 403


async def test_a_drain_reaches_every_process_at_once(desk: Desk) -> None:
    took = []
    for _ in range(count(3, 30)):
        for step, body in (("drain", {"reason": "how long"}), ("undrain", None)):
            began = time.monotonic()
            reply = await desk.post(f"/backends/c/{step}", body, wait="true")
            took.append(time.monotonic() - began)
            assert reply.json()["effective"]

    assert sorted(took)[len(took) // 2] < AT_ONCE_S, took
