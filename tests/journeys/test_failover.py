"""Another backend takes over before the first byte: clients notice nothing, the ledger knows everything."""

import asyncio
from collections import Counter

import httpx
import pytest

from tests.support.asking import NATIVE_STREAM, NATIVE_WHOLE, SHAPES, Shape, answer_of, ask
from tests.support.counts import count
from tests.support.fleet import COMMON, DUO, SOLO, TOKENS_PER_ANSWER, Fleet
from tests.support.gateway import Gateway, request_id
from tests.support.ollama import SimulatedOllama

AT_ONCE = 8


async def test_the_first_backend_in_order_serves(fleet: Fleet, client: httpx.AsyncClient) -> None:
    await fleet.even_out()

    reply = await ask(client)

    assert answer_of(NATIVE_WHOLE, reply).startswith("a ")
    assert await fleet.attempts() == "a"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
async def test_after_a_kill_the_next_request_is_served_by_the_next_backend(
    fleet: Fleet, client: httpx.AsyncClient, shape: Shape
) -> None:
    await fleet.rest()
    fleet.a.kill()
    try:
        reply = await ask(client, shape, DUO)
    finally:
        await fleet.a.restart()

    assert reply.status_code == 200
    assert answer_of(shape, reply).startswith("b ")
    row = await fleet.row(reply)
    assert (row.outcome, row.tokens_out, row.backend) == ("completed", TOKENS_PER_ANSWER, "b")
    assert row.attempted_backends == ["a", "b"]


async def test_a_failed_backend_is_left_out_for_a_while(fleet: Fleet, client: httpx.AsyncClient) -> None:
    await fleet.rest()
    await fleet.a.refuse()
    try:
        await ask(client)
        second = await ask(client)
    finally:
        await fleet.a.accept_again()

    assert (await fleet.row(second)).attempted_backends == ["b"]


async def test_a_backend_that_answers_again_is_used_again(
    fleet: Fleet, gateway: Gateway, client: httpx.AsyncClient
) -> None:
    await fleet.a.refuse()
    try:
        await ask(client)
    finally:
        await fleet.a.accept_again()

    async with asyncio.timeout(5):  # the promise: re-admitted within 5 s
        while not answer_of(NATIVE_WHOLE, await ask(client)).startswith("a "):
            await gateway.knows(3)


async def test_a_candidate_that_cools_is_still_tried_when_it_is_the_only_one(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    await fleet.a.order("garbage", model=SOLO)
    first, second = await ask(client, model=SOLO), await ask(client, model=SOLO)

    assert (first.status_code, second.status_code) == (502, 200)


async def test_a_used_connection_that_a_restart_closed_costs_no_attempt(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    await ask(client, model=SOLO)
    await fleet.a.restart()

    reply = await ask(client, model=SOLO)

    assert (await fleet.row(reply)).outcome == "completed"


async def _flap(backend: SimulatedOllama, over: asyncio.Event) -> None:
    """Take the backend up and down until told to stop: refusing, resetting, silent in mid-head."""
    while not over.is_set():
        await backend.refuse(for_ms=40)
        await backend.accepting()
        for fault in ("die_before", "busy", "status", "error_first", "die_after", "truncated"):
            await backend.order(fault, count=3, after=0)
        seen = await backend.stats()
        with_traffic = asyncio.create_task(backend.wait(started=seen.started + 18, timeout_s=0.5))
        ended = asyncio.create_task(over.wait())
        await asyncio.wait({with_traffic, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        await asyncio.gather(with_traffic, ended, return_exceptions=True)
        await backend.withdraw()


@pytest.mark.timeout(600)
async def test_a_flapping_backend_costs_no_client_an_error_and_the_ledger_no_row(
    fleet: Fleet, gateway: Gateway, client: httpx.AsyncClient
) -> None:
    requests = count(1_000, 10_000)
    over = asyncio.Event()
    left = iter(range(requests))
    replies: list[httpx.Response] = []

    async def keep_asking() -> None:
        replies.extend([await ask(client, SHAPES[number % len(SHAPES)], COMMON) for number in left])

    for backend in (fleet.a, fleet.b, fleet.c):
        await backend.change(tokens=2)
    flapping = asyncio.create_task(_flap(fleet.a, over))
    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(keep_asking())
    finally:
        over.set()
        await flapping

    assert Counter(reply.status_code for reply in replies) == {200: requests}
    rows = await gateway.rows(map(request_id, replies), within_s=30)
    assert Counter((row.outcome, row.tokens_out) for row in rows) == {("completed", 2): requests}
    assert any(row.attempts > 1 for row in rows)


async def test_a_stream_fails_over_as_long_as_nothing_has_reached_the_client(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    await fleet.even_out()
    for backend in (fleet.a, fleet.b):
        await backend.order("die_after", after=0)

    reply = await ask(client, NATIVE_STREAM)

    assert answer_of(NATIVE_STREAM, reply).startswith("c ")
    assert await fleet.attempts() == "abc"
