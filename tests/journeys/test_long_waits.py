"""Long waits through the running gateway: heartbeats where they are safe, and loads that outlive who began them.

a takes the faults of what it alone hosts, so that nothing but the test's own fault stands between b and c.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

import httpx
import openai as openai_client
import pytest

from app.gateway.downstream import HEARTBEAT
from app.problems import ALL_FAILED, FORBIDDEN, NO_CANDIDATE, UNAUTHENTICATED, UNAVAILABLE
from tests.journeys.test_clients import HELLO, openai_client_of
from tests.journeys.test_family_clients import anthropic_client_of
from tests.support.asking import (
    ANTHROPIC_STREAM,
    NATIVE_STREAM,
    OPENAI_STREAM,
    OPENAI_WHOLE,
    RESPONSES_STREAM,
    Shape,
    answer_of,
    ask,
    ends_in_error,
    is_refusal,
    records,
)
from tests.support.gateway import Gateway, Key, UsageRow
from tests.support.homes import Home
from tests.support.leaving_client import leaving_client
from tests.support.ollama import SimulatedOllama

SHARED: Final = "shared:1b"
"""Hosted by b and c."""
SOLO: Final = "solo:1b"
"""Hosted by a alone."""
LINED: Final = "lined:1b"
"""Hosted by c alone, which has one place for each model."""
HOSTED: Final = {"a": SOLO, "b": SHARED, "c": f"{SHARED},{LINED}"}
TOKENS: Final = 4
HEARTBEAT_S: Final = 0.1
WAIT_MS: Final = 500
"""Long enough for heartbeats."""
PATIENCE_S: Final = 0.5
"""How long a request may wait for a place."""
LOAD_S: Final = 1.5
REFUSALS: Final = {
    "status": (ALL_FAILED, "upstream_failed"),
    "missing_model": (FORBIDDEN, "rejected_upstream"),
    "busy": (NO_CANDIDATE, "upstream_failed"),
}
"""What each fault of an only backend comes to: words and outcome."""
EVENTS: Final = (OPENAI_STREAM, RESPONSES_STREAM, ANTHROPIC_STREAM)
of_events = pytest.mark.parametrize("shape", EVENTS, ids=str)


@pytest.fixture(scope="module")
async def running(home: Home) -> AsyncIterator[Gateway]:
    async with home.running(
        *(SimulatedOllama.start(name=name, models=models, tokens=TOKENS) for name, models in HOSTED.items()),
        described={"c": {"max_in_flight": 1}},
        settings={
            "GATEWAY_HEARTBEAT_SECONDS": str(HEARTBEAT_S),
            "GATEWAY_QUEUE_MAX_WAIT_SECONDS": str(PATIENCE_S),
        },
    ) as gateway:
        yield gateway


@pytest.fixture
async def gateway(running: Gateway) -> Gateway:
    """Give the gateway with its backends as they were started."""
    for backend in running.backends.values():
        await backend.wait(in_flight=0)
        await backend.reset()
    return running


@pytest.fixture
async def a(gateway: Gateway) -> SimulatedOllama:
    return gateway.backends["a"]


@pytest.fixture
async def key(gateway: Gateway) -> Key:
    return await gateway.tenant()


@pytest.fixture
async def client(gateway: Gateway, key: Key) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client(key) as client:
        yield client


def was_refused_in_band(shape: Shape, reply: httpx.Response, words: str) -> bool:
    """Tell whether all the client got are heartbeats and a refusal."""
    (said,) = records(reply)
    error = said["response"]["error"] if shape == RESPONSES_STREAM else said["error"]
    return (
        (reply.status_code, error["message"]) == (200, words)
        and reply.content.startswith(HEARTBEAT)
        and ends_in_error(shape, reply)
    )


# -- before the first record


@of_events
async def test_who_waits_for_a_load_is_told_so(
    gateway: Gateway, a: SimulatedOllama, client: httpx.AsyncClient, shape: Shape
) -> None:
    usual = answer_of(shape, await ask(client, shape, SOLO))
    await a.order("slow", delay_ms=WAIT_MS)

    reply = await ask(client, shape, SOLO)

    assert reply.content.startswith(2 * HEARTBEAT)
    assert reply.headers["content-type"] == "text/event-stream"
    assert answer_of(shape, reply) == usual
    row = await gateway.row(reply)
    assert (row.outcome, row.tokens_out, row.estimated) == ("completed", TOKENS, False)


@pytest.mark.parametrize("shape", [NATIVE_STREAM, OPENAI_WHOLE], ids=str)
async def test_what_is_no_stream_of_events_gets_no_heartbeat(
    a: SimulatedOllama, client: httpx.AsyncClient, shape: Shape
) -> None:
    await a.order("status", delay_ms=WAIT_MS)

    reply = await ask(client, shape, SOLO)

    assert (reply.status_code, is_refusal(shape, reply)) == (httpx.codes.BAD_GATEWAY, True)


@of_events
async def test_after_heartbeats_another_backend_may_still_answer(
    gateway: Gateway, client: httpx.AsyncClient, shape: Shape
) -> None:
    await gateway.backends["b"].order("busy", delay_ms=WAIT_MS)

    reply = await ask(client, shape, SHARED)

    assert reply.content.startswith(HEARTBEAT)
    assert answer_of(shape, reply).startswith("c ")
    row = await gateway.row(reply)
    assert (row.outcome, row.attempted_backends) == ("completed", ["b", "c"])


@of_events
@pytest.mark.parametrize("fault", REFUSALS)
async def test_a_refusal_after_heartbeats_comes_in_band(
    gateway: Gateway, a: SimulatedOllama, client: httpx.AsyncClient, shape: Shape, fault: str
) -> None:
    words, outcome = REFUSALS[fault]
    await a.order(fault, delay_ms=WAIT_MS)

    reply = await ask(client, shape, SOLO)

    assert was_refused_in_band(shape, reply, words)
    row = await gateway.row(reply)
    assert (row.outcome, row.tokens_in, row.tokens_out) == (outcome, 0, 0)


@of_events
async def test_who_is_revoked_while_waiting_is_told_in_band(
    gateway: Gateway, a: SimulatedOllama, key: Key, client: httpx.AsyncClient, shape: Shape
) -> None:
    await a.order("hang")
    async with client.stream("POST", shape.path, json=shape.body(SOLO)) as reply:
        await gateway.revoke(key)
        await reply.aread()

    assert was_refused_in_band(shape, reply, UNAUTHENTICATED)
    assert (await gateway.row(reply)).outcome == "cut"


@of_events
async def test_who_waits_in_line_is_told_so_and_refused_in_band(
    gateway: Gateway, client: httpx.AsyncClient, shape: Shape
) -> None:
    await gateway.backends["c"].change(tokens=100_000, token_interval_ms=20)
    async with client.stream("POST", NATIVE_STREAM.path, json=NATIVE_STREAM.body(LINED)):
        reply = await ask(client, shape, LINED)

    assert was_refused_in_band(shape, reply, NO_CANDIDATE)
    row = await gateway.row(reply)
    assert (row.outcome, row.attempts) == ("upstream_failed", 0)


async def test_who_waits_at_the_end_of_a_drain_is_told_in_band(
    gateway: Gateway, a: SimulatedOllama, key: Key
) -> None:
    neighbour, url = gateway.neighbour(GATEWAY_DRAIN_SECONDS="0.5")
    neighbour.start()
    try:
        async with gateway.client(key, url=url) as client:
            while await gateway.status(f"{url}/readyz") != httpx.codes.OK:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)
            await a.order("hang")
            how = client.stream("POST", OPENAI_STREAM.path, json=OPENAI_STREAM.body(SOLO))
            async with how as reply:
                neighbour.ask_to_stop()
                await reply.aread()
        await neighbour.ended()
    finally:
        neighbour.kill()

    assert was_refused_in_band(OPENAI_STREAM, reply, UNAVAILABLE)
    assert (await gateway.row(reply)).outcome == "cut"


# -- between records


@of_events
async def test_a_pause_within_an_answer_is_bridged_between_records(
    a: SimulatedOllama, client: httpx.AsyncClient, shape: Shape
) -> None:
    await a.change(tokens=2)
    usual = answer_of(shape, await ask(client, shape, SOLO))
    await a.order("slow", chunk_delay_ms=WAIT_MS)

    reply = await ask(client, shape, SOLO)

    assert HEARTBEAT in reply.content.partition(b"data: ")[2]
    assert answer_of(shape, reply) == usual


# -- what clients make of it


async def test_openai_waits_for_a_completion(gateway: Gateway, a: SimulatedOllama, key: Key) -> None:
    await a.order("slow", delay_ms=WAIT_MS)
    async with openai_client_of(gateway, key.text) as openai:
        stream = await openai.chat.completions.create(model=SOLO, messages=HELLO, stream=True)
        chunks = [chunk async for chunk in stream]

    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_openai_waits_for_a_response(gateway: Gateway, a: SimulatedOllama, key: Key) -> None:
    await a.order("slow", delay_ms=WAIT_MS)
    async with openai_client_of(gateway, key.text) as openai:
        stream = await openai.responses.create(model=SOLO, input=HELLO, stream=True)
        events = [event async for event in stream]

    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"


async def test_anthropic_waits_for_a_message(gateway: Gateway, a: SimulatedOllama, key: Key) -> None:
    await a.order("slow", delay_ms=WAIT_MS)
    async with (
        anthropic_client_of(gateway, key.text) as anthropic,
        anthropic.messages.stream(model=SOLO, max_tokens=100, messages=HELLO) as stream,
    ):
        message = await stream.get_final_message()

    assert message.stop_reason == "end_turn"


async def test_openai_raises_what_it_is_told_after_heartbeats(
    gateway: Gateway, a: SimulatedOllama, key: Key
) -> None:
    await a.order("status", delay_ms=WAIT_MS)
    async with openai_client_of(gateway, key.text) as openai:
        stream = await openai.chat.completions.create(model=SOLO, messages=HELLO, stream=True)
        with pytest.raises(openai_client.APIError, match=ALL_FAILED):
            await anext(aiter(stream))


# -- loads that outlive who began them


async def left(gateway: Gateway, key: Key) -> UsageRow:
    """Return the row of the one who left."""
    (row,) = await gateway.rows_of_all(key, 1)
    return row


async def test_a_load_outlives_the_client_that_began_it_if_another_waits(
    gateway: Gateway, a: SimulatedOllama, client: httpx.AsyncClient
) -> None:
    await a.change(load_ms=LOAD_S * 1000, token_interval_ms=20)
    await a.unload()
    leaver = await gateway.tenant()
    async with leaving_client(gateway.url) as first:
        await first.post(NATIVE_STREAM.path, NATIVE_STREAM.body(SOLO), key=leaver.text)
        await a.wait(started=1)
        asking = asyncio.create_task(ask(client, NATIVE_STREAM, SOLO))
        await a.wait(started=2)
        first.leave()
        row = await left(gateway, leaver)
    reply = await asking
    began, waited = await a.requests(in_flight=0)

    assert (reply.status_code, waited.outcome) == (200, "completed")
    assert began.outcome == "client_closed"
    assert began.ended_s is not None
    assert began.ended_s - began.started_s >= LOAD_S * 0.9
    assert (row.outcome, row.tokens_out, row.backend) == ("client_closed", 0, "a")


async def test_what_nobody_waits_for_any_more_is_closed_at_once(
    gateway: Gateway, a: SimulatedOllama, key: Key
) -> None:
    await a.order("hang", count=2)
    async with leaving_client(gateway.url) as first, leaving_client(gateway.url) as second:
        for number, each in enumerate((first, second), 1):
            await each.post(NATIVE_STREAM.path, NATIVE_STREAM.body(SOLO), key=key.text)
            await a.wait(started=number)
        first.leave()
        await gateway.rows_of_all(key, 1)
        assert (await a.stats()).in_flight == 2
        left_at = time.monotonic()
        second.leave()
        await a.wait(in_flight=0)

    assert time.monotonic() - left_at < LOAD_S
