"""Loading: the first use waits, waiters share a load, and a load dies with its first requester."""

import anyio
import httpx
import pytest

from app.simulator.decode import Refusal
from app.simulator.loading import keep_alive_ns
from tests.app.simulator.raw import CHAT, dial, post, read_until
from tests.support.ollama import SimulatedOllama

WHOLE = CHAT | {"stream": False}
LOAD_MS = 200
LOAD_NS = 190_000_000
"""A little less: the loop's timers count in whole milliseconds and may fire early."""


async def test_first_use_waits_for_the_load(ollama: SimulatedOllama, api: httpx.AsyncClient) -> None:
    await ollama.change(load_ms=LOAD_MS)

    cold, hot = [(await api.post("/api/chat", json=WHOLE)).json()["load_duration"] for _ in range(2)]

    assert cold >= LOAD_NS > hot


async def test_load_only_waits_too(ollama: SimulatedOllama, api: httpx.AsyncClient) -> None:
    await ollama.change(load_ms=LOAD_MS)

    await api.post("/api/generate", json={"model": "llama3.2"})

    assert (await api.post("/api/chat", json=WHOLE)).json()["load_duration"] < LOAD_NS


async def test_waiters_share_one_load(ollama: SimulatedOllama, api: httpx.AsyncClient) -> None:
    await ollama.change(load_ms=LOAD_MS)
    loads: list[int] = []

    async def ask() -> None:
        loads.append((await api.post("/api/chat", json=WHOLE)).json()["load_duration"])

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(ask)

    assert max(loads) < 2 * LOAD_NS


async def test_a_load_starts_over_when_its_first_requester_leaves(ollama: SimulatedOllama) -> None:
    await ollama.change(load_ms=300)
    async with await dial(ollama.url) as second:
        async with await dial(ollama.url) as first:
            await first.send(post("/api/chat", WHOLE))
            await ollama.wait(started=1)
            await second.send(post("/api/chat", WHOLE))
            await ollama.wait(started=2)
        await read_until(second, b'"done":true')

    left, served = await ollama.requests(in_flight=0)
    assert (left.outcome, served.outcome) == ("client_closed", "completed")
    assert left.ended_s is not None
    assert served.ended_s is not None
    assert served.ended_s - left.ended_s >= 0.29


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(None, None), (0, 0), (1.5, 1.5), ("5m", 300), ("1h30m", 5400), ("500ms", 0.5), ("0", 0)],
)
def test_keep_alive_is_a_number_or_a_duration(given: object, seconds: float | None) -> None:
    assert keep_alive_ns(given) == (None if seconds is None else seconds * 1_000_000_000)


@pytest.mark.parametrize("given", [-1, "-1s"])
def test_negative_keep_alive_is_forever(given: object) -> None:
    forever = keep_alive_ns(given)

    assert forever is not None
    assert forever > 10**18


@pytest.mark.parametrize("given", ["300", True, "soon", []])
def test_other_keep_alive_values_are_refused(given: object) -> None:
    with pytest.raises(Refusal):
        keep_alive_ns(given)
