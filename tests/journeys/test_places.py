"""Places through the running gateway: several app processes, and backends that note what they serve at once.

a has four places for each model and b two; c has as many as anybody wants.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import httpx
import msgspec
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from db.redis.connection import connect_patient
from db.redis.revocation_channel import seen_by
from tests.support.asking import NATIVE_STREAM, SHAPES, Shape, ask, is_refusal
from tests.support.counts import count
from tests.support.gateway import READY_WITHIN_S, Gateway, Key, Program, request_id
from tests.support.homes import Home
from tests.support.leaving_client import leaving_client
from tests.support.ollama import SimulatedOllama
from tests.support.places import in_line, most_at_once
from tests.support.stoppable import StoppableValkey

SHARED: Final = "shared:1b"
"""Hosted by a and b."""
SOLO: Final = "solo:1b"
"""Hosted by a alone."""
MIXED: Final = "mixed:1b"
"""Hosted by a and c."""
CAPS: Final = {"a": 4, "b": 2}
HOSTED: Final = {"a": f"{SHARED},{SOLO},{MIXED}", "b": SHARED, "c": MIXED}
WORKERS: Final = 2
PROCESSES: Final = WORKERS + 2
"""Those of the gateway, its twin, and one whose line is short and quick to refuse."""
BURST: Final = 300
ROUNDS: Final = count(1, 10)
FREED_S: Final = 15.0
TICKETS_GONE_S: Final = 5.0
"""Two seconds are promised for tickets; a busy machine gets more to show it."""
BUSY: Final = httpx.codes.SERVICE_UNAVAILABLE
LONG: Final = 100_000


class Places(msgspec.Struct, frozen=True):
    """The gateway, a neighbour like it, and a hasty one."""

    gateway: Gateway
    valkey: StoppableValkey
    redis: Redis
    twin: Program
    twin_url: str
    hasty_url: str
    key: Key

    def backend(self, name: str) -> SimulatedOllama:
        return self.gateway.backends[name]

    @asynccontextmanager
    async def clients(self) -> AsyncIterator[list[httpx.AsyncClient]]:
        """Give a client of the gateway and one of its twin."""
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(self.gateway.client(self.key, url=url))
                for url in (self.gateway.url, self.twin_url)
            ]

    async def burst(self, model: str, requests: int) -> list[httpx.Response]:
        """Ask so often at once over all processes."""
        async with self.clients() as clients:
            return await asyncio.gather(
                *(ask(clients[n % 3 == 0], SHAPES[n // 3 % 4], model) for n in range(requests))
            )

    async def at_once(self, backend: str) -> int:
        """Return how many requests a backend had at the same time, at most."""
        return most_at_once(await self.backend(backend).requests())

    async def all_know_each_other(self) -> None:
        """Wait until every process has reported, and had time to hear of the others."""
        async with asyncio.timeout(READY_WITHIN_S):
            while len(await seen_by(self.redis)) != PROCESSES:  # noqa: ASYNC110 - other processes
                await asyncio.sleep(0.05)
        reported = time.monotonic()
        await self.gateway.polled_since(reported)


@pytest.fixture(scope="module")
async def running(own_home: Home, own_valkey: StoppableValkey) -> AsyncIterator[Places]:
    backends = [
        SimulatedOllama.start(name=name, models=models, tokens=3, token_interval_ms=5)
        for name, models in HOSTED.items()
    ]
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(
            own_home.running(
                *backends,
                described={name: {"max_in_flight": cap} for name, cap in CAPS.items()},
                settings={"GATEWAY_WORKERS": str(WORKERS), "GATEWAY_QUEUE_MAX_WAITING": "1000"},
            )
        )
        twin, twin_url = gateway.neighbour(GATEWAY_WORKERS="1")
        hasty, hasty_url = gateway.neighbour(
            GATEWAY_WORKERS="1", GATEWAY_QUEUE_MAX_WAITING="1", GATEWAY_QUEUE_MAX_WAIT_SECONDS="0.5"
        )
        for neighbour in (twin, hasty):
            stack.push_async_callback(neighbour.stop)
            neighbour.start()
        redis = await stack.enter_async_context(connect_patient(SecretStr(own_valkey.url)))
        yield Places(gateway, own_valkey, redis, twin, twin_url, hasty_url, await gateway.tenant())


@pytest.fixture
async def places(running: Places) -> Places:
    """Give the gateway with nothing in flight and its backends as they were started."""
    for backend in running.gateway.backends.values():
        await backend.wait(in_flight=0, timeout_s=10)
        await backend.reset()
    await running.all_know_each_other()
    return running


class Taken:
    """Streams that take places of the backend a and go on until told to end."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._streams: list[AsyncExitStack] = []

    async def all_of(self, model: str, url: str) -> None:
        """Take every place there is."""
        backend = self._places.backend("a")
        await backend.change(tokens=LONG, token_interval_ms=20)
        for _ in range(CAPS["a"]):
            await self.one(model, url)

    async def one(self, model: str, url: str) -> None:
        """Take one place, once there is one."""
        stack = AsyncExitStack()
        client = await stack.enter_async_context(self._places.gateway.client(self._places.key, url=url))
        how = client.stream("POST", NATIVE_STREAM.path, json=NATIVE_STREAM.body(model))
        reply = await stack.enter_async_context(how)
        assert reply.status_code == httpx.codes.OK
        self._streams.append(stack)

    async def end_one(self) -> None:
        await self._streams.pop(0).aclose()

    async def end_all(self) -> None:
        """End what runs, and let the backend answer quickly again."""
        while self._streams:
            await self.end_one()
        await self._places.backend("a").change(tokens=3, token_interval_ms=5)


@pytest.fixture
async def taken(places: Places) -> AsyncIterator[Taken]:
    taken = Taken(places)
    yield taken
    await taken.end_all()


async def waiting(places: Places, expected: int, model: str = SOLO) -> None:
    """Wait until so many requests stand in line."""
    async with asyncio.timeout(READY_WITHIN_S):
        while await in_line(places.redis, model) != expected:  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.01)


# -- never more than there is


@pytest.mark.timeout(300)
async def test_no_backend_ever_serves_more_at_once_than_its_cap(places: Places) -> None:
    requests = ROUNDS * BURST
    replies = [reply for _ in range(ROUNDS) for reply in await places.burst(SHARED, BURST)]

    assert Counter(reply.status_code for reply in replies) == {200: requests}
    assert {name: await places.at_once(name) for name in CAPS} == CAPS
    rows = await places.gateway.rows(map(request_id, replies))
    assert Counter((row.outcome, row.attempts) for row in rows) == {("completed", 1): requests}
    assert sum(row.queue_us is not None and row.queue_us > 0 for row in rows) > requests // 2


async def test_what_finds_no_place_goes_where_none_is_needed(places: Places) -> None:
    await places.burst(MIXED, 1)
    await places.backend("a").change(token_interval_ms=100)
    replies = await places.burst(MIXED, 40)

    assert Counter(reply.status_code for reply in replies) == {200: 40}
    assert await places.at_once("a") == CAPS["a"]
    assert len(await places.backend("c").requests()) > 40 // 2


@pytest.mark.timeout(300)
async def test_a_redis_that_forgets_everything_gives_away_nothing_twice(places: Places) -> None:
    for _ in range(ROUNDS):
        await places.backend("a").clear()
        asking = asyncio.create_task(places.burst(SHARED, BURST))
        for part in range(1, 4):
            await places.backend("a").wait(started=part * BURST // 8, timeout_s=60)
            await places.redis.flushall()

        assert Counter(reply.status_code for reply in await asking) == {200: BURST}
        assert {name: await places.at_once(name) for name in CAPS} == CAPS


@pytest.mark.timeout(300)
async def test_without_redis_the_shares_of_all_processes_hold(places: Places) -> None:
    await places.burst(SHARED, 2 * PROCESSES)
    for name in CAPS:
        await places.backend(name).clear()
    with places.valkey.gone():
        replies = await places.burst(SHARED, BURST // 3)

    assert Counter(reply.status_code for reply in replies) == {200: BURST // 3}
    for name, cap in CAPS.items():
        assert await places.at_once(name) <= cap


# -- the line


async def test_places_pass_on_in_order_of_arrival_over_all_processes(places: Places, taken: Taken) -> None:
    await taken.all_of(SOLO, places.gateway.url)
    await places.backend("a").change(tokens=3, token_interval_ms=5)
    async with places.clients() as clients:
        asked = []
        for number in range(10):
            asked.append(asyncio.create_task(ask(clients[number % 2], model=SOLO)))
            await waiting(places, number + 1)
        await taken.end_one()
        replies = await asyncio.gather(*asked)
    served = [request.request_id for request in (await places.backend("a").requests())[CAPS["a"] :]]

    assert served == [str(request_id(reply)) for reply in replies]


async def test_a_client_that_leaves_the_line_frees_its_ticket(places: Places, taken: Taken) -> None:
    key = await places.gateway.tenant()
    await taken.all_of(SOLO, places.gateway.url)
    async with leaving_client(places.gateway.url) as leaver:
        await leaver.post(NATIVE_STREAM.path, NATIVE_STREAM.body(SOLO), key=key.text)
        await waiting(places, 1)
        behind = asyncio.create_task(taken.one(SOLO, places.twin_url))
        await waiting(places, 2)
        leaver.leave()
    await waiting(places, 1)
    (row,) = await places.gateway.rows_of_all(key, 1)
    await taken.end_one()
    await behind

    assert (row.outcome, row.attempts, row.tokens_in, row.tokens_out) == ("client_closed", 0, 0, 0)
    assert row.queue_us is not None
    assert row.queue_us > 0


async def test_who_leaves_the_line_after_an_attempt_that_failed_pays_nothing(
    places: Places, taken: Taken
) -> None:
    key = await places.gateway.tenant()
    await places.backend("a").order("missing_model", count=None)
    await places.backend("b").change(tokens=LONG, token_interval_ms=20)
    for _ in range(CAPS["b"]):
        await taken.one(SHARED, places.gateway.url)
    async with leaving_client(places.gateway.url) as leaver:
        await leaver.post(NATIVE_STREAM.path, NATIVE_STREAM.body(SHARED), key=key.text)
        await waiting(places, 1, SHARED)
        leaver.leave()
    (row,) = await places.gateway.rows_of_all(key, 1)

    assert (row.outcome, row.attempts, row.tokens_in, row.tokens_out) == ("client_closed", 1, 0, 0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
async def test_who_waits_too_long_is_told_when_to_come_back(
    places: Places, taken: Taken, shape: Shape
) -> None:
    await taken.all_of(SOLO, places.gateway.url)
    async with places.gateway.client(places.key, url=places.hasty_url) as client:
        reply = await ask(client, shape, SOLO)
    row = await places.gateway.row(reply)

    assert (reply.status_code, is_refusal(shape, reply)) == (BUSY, True)
    assert int(reply.headers["retry-after"]) >= 1
    assert (row.outcome, row.attempts, row.tokens_in) == ("upstream_failed", 0, 0)
    assert row.queue_us is not None
    assert row.queue_us >= 400_000


async def test_case_39_a_full_line_refuses_at_once(places: Places, taken: Taken) -> None:
    await taken.all_of(SOLO, places.gateway.url)
    behind = asyncio.create_task(taken.one(SOLO, places.gateway.url))
    await waiting(places, 1)
    async with places.gateway.client(places.key, url=places.hasty_url) as client:
        reply = await ask(client, model=SOLO)
    row = await places.gateway.row(reply)
    await taken.end_one()
    await behind

    assert (reply.status_code, row.outcome, row.queue_us) == (BUSY, "upstream_failed", None)
    assert int(reply.headers["retry-after"]) > 0


# -- processes that end


async def test_a_process_told_to_stop_refuses_who_waits(places: Places, taken: Taken) -> None:
    await taken.all_of(SOLO, places.gateway.url)
    async with places.gateway.client(places.key, url=places.twin_url) as client:
        late = asyncio.create_task(ask(client, model=SOLO))
        await waiting(places, 1)
        places.twin.ask_to_stop()
        reply = await late
    await places.twin.ended()
    places.twin.start()
    row = await places.gateway.row(reply)

    assert (reply.status_code, row.outcome, row.attempts) == (BUSY, "cut", 0)


@pytest.mark.timeout(300)
async def test_the_places_of_a_killed_process_come_back(places: Places, taken: Taken) -> None:
    await taken.all_of(SOLO, places.twin_url)
    with places.twin.gone():
        killed = time.monotonic()
        async with places.gateway.client(places.key) as client:
            await places.backend("a").change(tokens=3, token_interval_ms=5)
            replies = await asyncio.gather(*(ask(client, model=SOLO) for _ in range(2 * CAPS["a"])))

    assert {reply.status_code for reply in replies} == {200}
    assert time.monotonic() - killed < FREED_S


async def test_the_tickets_of_a_killed_process_leave_the_line(places: Places, taken: Taken) -> None:
    await taken.all_of(SOLO, places.gateway.url)
    async with places.gateway.client(places.key, url=places.twin_url) as client:
        first = asyncio.create_task(ask(client, model=SOLO))
        await waiting(places, 1)
        behind = asyncio.create_task(taken.one(SOLO, places.gateway.url))
        await waiting(places, 2)
        with places.twin.gone():
            killed = time.monotonic()
            await asyncio.gather(first, return_exceptions=True)
            await taken.end_one()
            await behind

            assert time.monotonic() - killed < TICKETS_GONE_S
