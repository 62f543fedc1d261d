"""A thousand requests at once at four app processes, for the last of a limit: as many as fit are served, no more."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest

from bench.crowd import crowd
from bench.wire import post
from tests.support.asking import MODEL, NATIVE_STREAM, ask
from tests.support.counts import count
from tests.support.gateway import Gateway
from tests.support.homes import Home
from tests.support.limited import LARGE, Limited, reserved_by
from tests.support.ollama import SimulatedOllama

pytestmark = pytest.mark.timeout(300)  # four processes start at once, on whatever cores are left for them
STARTED_WITHIN_S: Final = 180.0

PROCESSES: Final = 4
CALLERS: Final = 1000
ROUNDS: Final = count(1, 3)
OK, TOO_MANY = httpx.codes.OK, httpx.codes.TOO_MANY_REQUESTS
ASKED: Final[dict[str, Any]] = {"options": {"num_predict": 100}}
BODY: Final = json.dumps(NATIVE_STREAM.body(**ASKED)).encode()

RACES: Final = {
    "request": ("requests_per_minute", 1),
    "place": ("concurrency", 20),
    "token of the minute": ("tokens_per_minute", 1),
    "token of the day": ("tokens_per_day", 1),
    "tokens of the day": ("tokens_per_day", 37),
    "tokens of the month": ("tokens_per_month", 5),
}
"""What is raced for, and for how many there is room. A minute gives nothing back to those with room for one."""


class Four:
    """Four app processes with a port of their own each, over the same stores and one backend that never ends."""

    def __init__(self, gateway: Gateway, ports: Sequence[int], limited: Limited, each: int) -> None:
        self.gateway = gateway
        self.ports = ports
        self.limited = limited
        self.each = each
        """The tokens that a request here reserves."""


@pytest.fixture(scope="module")
async def four(home: Home) -> AsyncIterator[Four]:
    async with AsyncExitStack() as stack:
        backend = SimulatedOllama.start(models=f"{MODEL}:latest")
        # A machine with more to do than it can is no outage.
        settings = {"GATEWAY_REDIS_TIMEOUT_MS": "5000"}
        gateway = await stack.enter_async_context(home.running(backend, settings=settings))
        programs, ports = [gateway.app], [gateway.port]
        for _ in range(PROCESSES - 1):
            program, address = gateway.neighbour()
            stack.push_async_callback(program.stop)
            program.start()
            programs.append(program)
            ports.append(urlsplit(address).port or 0)
        async with asyncio.timeout(STARTED_WITHIN_S), gateway.client() as client:
            for port in ports:
                while not await _is_ready(client, port):  # noqa: ASYNC110 - another process cannot set our events
                    await asyncio.sleep(0.02)
        assert len({program.pid for program in programs}) == PROCESSES
        limited = Limited(gateway, stack)
        first = await ask(await limited.new(tokens_per_day=LARGE), NATIVE_STREAM, **ASKED)
        await backend.order("hang", after=1, count=None)  # whoever is served keeps what it holds
        yield Four(gateway, ports, limited, each=reserved_by(first))


async def _is_ready(client: httpx.AsyncClient, port: int) -> bool:
    try:
        return (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == OK
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("what", RACES)
async def test_of_a_thousand_at_once_exactly_as_many_as_fit_are_served(four: Four, what: str) -> None:
    kind, fit = RACES[what]
    each = four.each if kind.startswith("tokens") else 1
    for _ in range(ROUNDS):
        key = await four.limited.key(**{kind: fit * each})
        async with crowd(four.ports, CALLERS) as callers:
            answers = await callers.ask(post(NATIVE_STREAM.path, BODY, key.text))

        assert Counter(answer.status for answer in answers) == {OK: fit, TOO_MANY: CALLERS - fit}
        assert Counter(answer.port for answer in answers) == dict.fromkeys(four.ports, CALLERS // PROCESSES)
        rows = await four.gateway.rows_of_all(key, fit)
        assert {row.outcome for row in rows} == {"client_closed"}
        assert sum(row.tokens_in + row.tokens_out for row in rows) <= fit * four.each
