"""Where a request ends is never in doubt: a corpus of smuggling attempts over raw sockets, and its variants."""

import asyncio
import re
import sys
from collections import Counter
from random import Random

import pytest

from app.simulator.request_log import KEPT_REQUESTS
from tests.support.asking import ANTHROPIC_WHOLE, NATIVE_WHOLE, OPENAI_WHOLE, RESPONSES_WHOLE, Shape
from tests.support.counts import chosen_seed, count, tell_cases
from tests.support.fleet import Fleet
from tests.support.framing import Sending, converse, corpus, marked_body, varied
from tests.support.gateway import Gateway, Key
from tests.support.leaving_client import leaving_client

AT_ONCE = count(100, 800)
BATCH = count(250, 3_000)
"""What is sent between two looks at the backends' logs; they hold it, with as much again, several times over."""
SERVER_ERROR = 500
CORPUS = corpus()


def whole(shape: Shape, number: int, key: Key) -> bytes:
    """Return a request that nothing is wrong with."""
    body = marked_body(shape, number)
    head = (
        f"POST {shape.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key.text}\r\nConnection: close\r\n"
    )
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


async def wrong_with(gateway: Gateway, key: Key, sending: Sending, after: int) -> list[str]:
    """Send a variant, then a good request numbered `after` on a fresh connection, and name what went wrong."""
    try:
        heard = await converse(
            gateway.port,
            sending.pieces,
            closes=sending.case.closes and not sending.is_damaged,
            answers=not sending.is_damaged,
        )
        fresh = await converse(gateway.port, [whole(NATIVE_WHOLE, after, key)], closes=True)
    except TimeoutError:
        return ["nothing came back"]
    wrong = []
    if any(status >= SERVER_ERROR for status in heard.statuses):
        wrong.append(f"answered {heard.statuses}")
    if fresh.statuses != (200,):
        wrong.append(f"the next request was answered {fresh.statuses}")
    return wrong


async def arrived(fleet: Fleet) -> Counter[int]:
    """Return how many requests of each number the backends saw, and have them forget."""
    seen = [request for backend in (await fleet.asked()).values() for request in backend]
    for backend in (fleet.a, fleet.b, fleet.c):
        await backend.clear()
    return Counter(int(found) for request in seen for found in re.findall(r"probe-(\d+)-", request.raw_body))


@pytest.mark.timeout(count(120, 6 * 3600))
async def test_t19_no_framing_smuggles_a_request_and_none_costs_the_next_one(
    request: pytest.FixtureRequest, fleet: Fleet, gateway: Gateway, everything: Key
) -> None:
    seed = chosen_seed()
    total = count(500, 300_000)
    sys.stdout.write(f"NNG_SEED={seed}: {total} requests from a corpus of {len(CORPUS)}\n")
    tell_cases(request.node, "framed requests over raw sockets", total)
    random, wrong, slots = Random(seed), list[str](), asyncio.Semaphore(AT_ONCE)

    async def attempt(sending: Sending) -> None:
        async with slots:
            found = await wrong_with(gateway, everything, sending, total + sending.number)
            wrong.extend(f"{sending.case.name}: {each}: {sending.pieces!r}" for each in found)

    for start in range(0, total, BATCH):
        sendings = [
            varied(random, number, CORPUS[number % len(CORPUS)], everything.text)
            for number in range(start, min(start + BATCH, total))
        ]
        async with asyncio.TaskGroup() as group:
            for sending in sendings:
                group.create_task(attempt(sending))
        seen = await arrived(fleet)
        for sending in sendings:
            if seen[sending.number] > sending.upstream:
                wrong.append(f"{sending.case.name}: {seen[sending.number]} went upstream: {sending.pieces!r}")
            if seen[total + sending.number] != 1:
                wrong.append(f"{sending.case.name}: the next request did not go upstream once")

    assert not wrong, "\n".join([f"NNG_SEED={seed}", *wrong])


def test_the_backends_remember_all_of_a_batch() -> None:
    largest = max(case.upstream for case in CORPUS)

    assert BATCH * (largest + 1) <= KEPT_REQUESTS


def test_every_case_has_a_name_of_its_own() -> None:
    assert len({case.name for case in CORPUS}) == len(CORPUS)


@pytest.mark.parametrize("shape", [NATIVE_WHOLE, OPENAI_WHOLE, RESPONSES_WHOLE, ANTHROPIC_WHOLE], ids=str)
async def test_t17_broken_chunks_are_a_400_in_the_shape_of_the_family(
    gateway: Gateway, everything: Key, shape: Shape
) -> None:
    async with leaving_client(gateway.url) as client:
        await client.send(
            f"POST {shape.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {everything.text}\r\n"
            "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n".encode()
        )
        status, headers = await client.head()
        body = await client.body(headers)
        closed = await client.is_closed_by_the_other_side()

    assert (status, headers["content-type"], closed) == (400, "application/json; charset=utf-8", True)
    assert b"the body ended before it was complete" in body
    assert body.startswith(b'{"type":"error"' if shape == ANTHROPIC_WHOLE else b'{"error":')


async def test_leaving_in_the_middle_of_a_body_is_nobody_s_fault(
    fleet: Fleet, gateway: Gateway, everything: Key
) -> None:
    faults = gateway.app.log().count("request_failed")
    async with leaving_client(gateway.url) as client:
        await client.send(
            f"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {everything.text}\r\n"
            "Content-Length: 100\r\n\r\n{".encode()
        )
        client.leave()

    await fleet.rest()
    assert gateway.app.log().count("request_failed") == faults
