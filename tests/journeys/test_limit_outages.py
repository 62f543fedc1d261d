"""Limits through two running app processes while Redis is away or has lost its memory."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final

import httpx
import pytest

from tests.support.asking import MODEL, NATIVE_STREAM, SHAPES, Shape, ask, is_refusal
from tests.support.gateway import Gateway, Key
from tests.support.homes import Home
from tests.support.limited import limited_key
from tests.support.ollama import SimulatedOllama
from tests.support.stoppable import StoppableValkey

TOO_MANY: Final = httpx.codes.TOO_MANY_REQUESTS
LARGE: Final = 1_000_000
WITHIN_S: Final = 20.0
OPTIONS: Final = {"num_predict": 100}


class Site:
    """Two app processes, and callers that reach one of them each."""

    def __init__(self, gateway: Gateway, urls: tuple[str, str], stack: AsyncExitStack) -> None:
        self.gateway = gateway
        self.backend: SimulatedOllama = next(iter(gateway.backends.values()))
        self._urls = urls
        self._stack = stack

    async def key(self, **limits: int) -> Key:
        """Return the key of a new tenant with these limits."""
        return await limited_key(self.gateway, **limits)

    async def callers(self, key: Key) -> list[httpx.AsyncClient]:
        """Return one client for each process, both of which know the key."""
        clients = [
            await self._stack.enter_async_context(
                httpx.AsyncClient(base_url=url, headers=key.headers, trust_env=False, timeout=30)
            )
            for url in self._urls
        ]
        for client in clients:
            assert (await client.get("/api/tags")).status_code == httpx.codes.OK
        return clients

    async def both_know_each_other(self) -> None:
        """Return once each process shares limits with the other one."""
        async with asyncio.timeout(WITHIN_S):
            for url in self._urls:
                while await self._processes(url) != 2:  # noqa: ASYNC110 - another process sets no event of ours
                    await asyncio.sleep(0.05)

    async def _processes(self, url: str) -> float:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            return (await self.gateway.metrics(client))["nng_live_processes"]


@pytest.fixture(scope="module")
async def site(own_home: Home) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        backend = SimulatedOllama.start(models=f"{MODEL}:latest", tokens=40)
        gateway = await stack.enter_async_context(own_home.running(backend))
        neighbour, url = gateway.neighbour()
        neighbour.start()
        stack.push_async_callback(neighbour.stop)
        site = Site(gateway, (gateway.url, url), stack)
        async with asyncio.timeout(60):
            async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
                while await _status(client) != httpx.codes.OK:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        await site.both_know_each_other()
        yield site


async def _status(client: httpx.AsyncClient) -> int:
    try:
        return (await client.get("/readyz")).status_code
    except httpx.TransportError:
        return 0


async def let_in(client: httpx.AsyncClient, tries: int) -> int:
    """Return how many of some requests are let in."""
    return [(await ask(client, options=OPTIONS)).status_code for _ in range(tries)].count(httpx.codes.OK)


async def until_exact(client: httpx.AsyncClient, limit: int) -> int:
    """Ask until Redis decides, which the headers show: they tell of the whole limit. Return how many were let in."""
    asked = 0
    async with asyncio.timeout(WITHIN_S):
        while True:
            reply = await ask(client, options=OPTIONS)
            asked += reply.is_success
            if reply.is_success and left(reply) > limit // 2:
                return asked
            await asyncio.sleep(0.1)


async def reservation(site: Site) -> int:
    """Return what a request of this module reserves, as Redis says it of a new tenant."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            client, _ = await site.callers(await site.key(tokens_per_day=LARGE))
            reserved = LARGE - left(await ask(client, options=OPTIONS))
            if reserved < LARGE // 2:
                return reserved


def left(reply: httpx.Response) -> int:
    return int(reply.headers["x-ratelimit-remaining-tokens"])


async def test_f11_while_redis_is_away_each_process_has_its_share(
    site: Site, own_valkey: StoppableValkey
) -> None:
    key = await site.key(requests_per_minute=4)
    callers = await site.callers(key)
    with own_valkey.gone():
        found = [await let_in(client, 4) for client in callers]

    assert found == [2, 2]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
async def test_a_spent_share_is_refused_like_a_spent_limit(
    site: Site, own_valkey: StoppableValkey, shape: Shape
) -> None:
    client, _ = await site.callers(await site.key(requests_per_minute=2))
    with own_valkey.gone():
        replies = [await ask(client, shape) for _ in range(2)]

    assert [reply.status_code for reply in replies] == [httpx.codes.OK, TOO_MANY]
    assert is_refusal(shape, replies[1])
    assert int(replies[1].headers["retry-after"]) >= 1


async def test_f11_who_has_no_limits_does_not_notice(site: Site, own_valkey: StoppableValkey) -> None:
    callers = await site.callers(await site.gateway.tenant())
    for client in callers:
        await ask(client)
    with own_valkey.gone():
        assert [await let_in(client, 5) for client in callers] == [5, 5]


async def test_f13_what_was_spent_without_redis_is_counted_when_it_is_back(
    site: Site, own_valkey: StoppableValkey
) -> None:
    key = await site.key(tokens_per_day=LARGE)
    callers = await site.callers(key)
    reserved = await reservation(site)
    with own_valkey.gone():
        assert [await let_in(client, 3) for client in callers] == [3, 3]
    asked = 6 + sum([await until_exact(client, LARGE) for client in callers])
    before = await site.gateway.rows_of_all(key, asked)
    last = await ask(callers[0], options=OPTIONS)

    spent = sum(row.tokens_in + row.tokens_out for row in before)
    assert Counter(row.outcome for row in before) == {"completed": asked}
    assert left(last) == LARGE - spent - reserved


async def test_f14_a_flush_frees_no_place(site: Site, own_valkey: StoppableValkey) -> None:
    callers = await site.callers(await site.key(concurrency=2))
    await site.backend.change(token_interval_ms=200)
    async with AsyncExitStack() as running:
        for client in callers:
            stream = client.stream("POST", NATIVE_STREAM.path, json=NATIVE_STREAM.body())
            assert (await running.enter_async_context(stream)).status_code == httpx.codes.OK
        own_valkey.flush()

        assert [(await ask(client)).status_code for client in callers] == [TOO_MANY, TOO_MANY]
    await site.backend.reset()
