"""Orders and observations under `/_sim/`."""

import time

import anyio
import httpx
import pytest

from tests.app.simulator.raw import CHAT, dial, leave_rudely, post, read_until
from tests.support.ollama import SimulatedOllama


async def test_a_request_is_logged_as_it_came(ollama: SimulatedOllama, api: httpx.AsyncClient) -> None:
    await api.post("/api/chat?a=1", json=CHAT, headers={"X-Request-ID": "r-1"})

    (seen,) = await ollama.requests(ended=1)
    assert (seen.method, seen.path, seen.query, seen.request_id) == ("POST", "/api/chat", "a=1", "r-1")
    assert (seen.body, seen.header("x-request-id")) == (CHAT, "r-1")
    assert '"model"' in seen.raw_body
    assert (seen.outcome, seen.tokens) == ("completed", 12)


async def test_the_log_shows_the_model_go_would_run(ollama: SimulatedOllama, api: httpx.AsyncClient) -> None:
    await api.post("/api/chat", content=b'{"model":"llama3.2","Model":"qwen3:8b","messages":[]}')

    (seen,) = await ollama.requests(ended=1)
    assert seen.body == {"model": "qwen3:8b", "messages": []}


@pytest.mark.parametrize("rude", [False, True])
async def test_a_client_that_leaves_is_noticed_at_once(ollama: SimulatedOllama, rude: bool) -> None:  # noqa: FBT001
    await ollama.change(tokens=1000, token_interval_ms=5)
    async with await dial(ollama.url) as stream:
        await stream.send(post("/api/chat", CHAT))
        await read_until(stream, b"}\n")
        if rude:
            leave_rudely(stream)
    left_s = time.monotonic()

    (seen,) = await ollama.requests(ended=1)
    assert seen.outcome == "client_closed"
    assert seen.ended_s is not None
    assert seen.ended_s - left_s < 1
    assert 0 < seen.tokens < 1000


async def test_waiting_ends_when_the_condition_holds(ollama: SimulatedOllama, api: httpx.AsyncClient) -> None:
    await ollama.change(token_interval_ms=5)
    results: list[int] = []

    async def watch() -> None:
        results.append((await ollama.wait(ended=2)).ended)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        tasks.start_soon(lambda: api.post("/api/chat", json=CHAT))
        tasks.start_soon(lambda: api.post("/api/chat", json=CHAT))

    assert results == [2]


async def test_waiting_gives_up_after_its_timeout(ollama: SimulatedOllama) -> None:
    with pytest.raises(TimeoutError, match="ended"):
        await ollama.wait(ended=1, timeout_s=0.05)


async def test_unknown_conditions_are_refused(ollama: SimulatedOllama) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        await ollama.wait(finished=1)


async def test_unknown_faults_are_refused(ollama: SimulatedOllama) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        await ollama.order("explode")


async def test_stats_count_paths_and_client_connections(
    ollama: SimulatedOllama, api: httpx.AsyncClient
) -> None:
    await api.get("/api/tags")
    await api.get("/api/tags")

    stats = await ollama.stats()
    assert stats.requests == {"/api/tags": 2}
    assert (stats.connections.open, stats.connections.accepted) == (1, 1)


async def test_reads_are_not_logged(ollama: SimulatedOllama, api: httpx.AsyncClient) -> None:
    await api.get("/api/tags")

    assert await ollama.requests() == []


async def test_models_can_be_replaced(ollama: SimulatedOllama, api: httpx.AsyncClient) -> None:
    stub: dict[str, object] = {
        "name": "big:cloud",
        "digest": "f" * 64,
        "remote_host": "https://elsewhere",
        "capabilities": ["completion"],
    }
    await ollama.host("phi4", stub)

    listed = {model["name"]: model for model in (await api.get("/api/tags")).json()["models"]}

    assert {"phi4:latest", "big:cloud"} == set(listed)
    assert (listed["big:cloud"]["digest"], listed["big:cloud"]["remote_host"]) == (
        "f" * 64,
        "https://elsewhere",
    )
    assert (await api.post("/api/chat", json=CHAT)).status_code == 404


async def test_settings_can_be_changed(ollama: SimulatedOllama, api: httpx.AsyncClient) -> None:
    await ollama.change(tokens=3, version="0.1.2")

    assert (await api.get("/api/version")).json() == {"version": "0.1.2"}
    assert (await api.post("/api/chat", json=CHAT | {"stream": False})).json()["eval_count"] == 3


async def test_reset_goes_back_to_the_start(ollama: SimulatedOllama, api: httpx.AsyncClient) -> None:
    await ollama.change(tokens=3)
    await ollama.host()
    await ollama.order("busy", count=None)
    await ollama.reset()

    answer = await api.post("/api/chat", json=CHAT | {"stream": False})

    assert (answer.status_code, answer.json()["eval_count"]) == (200, 12)


async def test_clear_forgets_what_was_seen(ollama: SimulatedOllama, api: httpx.AsyncClient) -> None:
    await api.post("/api/chat", json=CHAT)
    await ollama.clear()

    assert (await ollama.requests(), (await ollama.stats()).ended) == ([], 0)
