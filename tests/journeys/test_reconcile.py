"""Comparing a running gateway with itself: under load nothing differs, and what is broken on purpose is found."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from pydantic import SecretStr

from app.reconcile.findings import Finding, FindingKind
from app.reconcile.repair import Repairs
from app.reconcile.seen import Stores
from app.reconcile.survey import survey
from db.redis.connection import connect_patient
from db.redis.multiplex import MultiplexedRedis
from domain.limits import LimitKind
from domain.tenants import Actor
from tests.support.asking import MODEL, NATIVE_STREAM, NATIVE_WHOLE, ask
from tests.support.counts import count
from tests.support.gateway import Gateway, Key
from tests.support.homes import Home
from tests.support.ollama import SimulatedOllama

CALLERS = 12
FOUND_WITHIN_S = 60.0
SERVED_BETWEEN = 20


class Site:
    """A gateway of two app processes, and the stores it works with."""

    def __init__(self, gateway: Gateway, stores: Stores, key: Key, redis_url: str) -> None:
        self.redis_url = redis_url
        self.gateway = gateway
        self.stores = stores
        self.key = key
        self.served = 0

    async def found(self) -> tuple[Finding, ...]:
        """Return what differs."""
        since = datetime.now(UTC) - timedelta(days=1)
        return (await survey(self.stores, since=since, pause=asyncio.sleep)).findings

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Have streams and whole answers asked for without a pause while the block runs."""
        over = asyncio.Event()

        async def call(number: int) -> None:
            async with self.gateway.client(self.key) as client:
                while not over.is_set():
                    try:
                        reply = await ask(client, NATIVE_STREAM if number % 2 else NATIVE_WHOLE)
                    except httpx.TransportError:
                        await asyncio.sleep(0.05)
                        continue
                    self.served += reply.status_code == httpx.codes.OK

        async with asyncio.TaskGroup() as tasks:
            for number in range(CALLERS):
                tasks.create_task(call(number))
            try:
                yield
            finally:
                over.set()


@pytest.fixture(scope="module")
async def site(home: Home) -> AsyncIterator[Site]:
    backend = SimulatedOllama.start(models=f"{MODEL}:latest", tokens=6, token_interval_ms=5)
    async with (
        home.running(backend, settings={"GATEWAY_WORKERS": "2"}) as gateway,
        connect_patient(SecretStr(home.redis_url)) as redis,
    ):
        key = await gateway.tenant()
        async with gateway.database.unit_of_work(Actor("test")) as work:
            await work.limits(key.tenant_id).set(
                {LimitKind.TOKENS_PER_DAY: 10**9, LimitKind.CONCURRENCY: 10 * CALLERS}
            )
        stores = Stores(gateway.database, redis, gateway.journal, Actor("test"))
        yield Site(gateway, stores, key, home.redis_url)


async def test_a_busy_gateway_does_not_differ_from_itself(site: Site) -> None:
    async with site.load():
        for _ in range(count(3, 100)):
            before = site.served
            assert await site.found() == ()
            await asyncio.wait_for(_more_served(site, before + SERVED_BETWEEN), 30)

    assert site.served
    assert await site.found() == ()


async def _more_served(site: Site, than: int) -> None:
    while site.served < than:  # noqa: ASYNC110 - the callers count
        await asyncio.sleep(0.01)


async def _counted_day(site: Site) -> bytes | str:
    """Return the key of the tenant's day in Redis once something is counted there."""
    async with site.gateway.client(site.key) as client:
        await site.gateway.row(await ask(client, NATIVE_WHOLE))
    redis = site.stores.redis
    (day,) = [key for key in await redis.keys("nng:{t:*:d:*") if await redis.hlen(key) > 1]
    return day


async def test_a_difference_of_one_token_is_found_when_the_load_is_over(site: Site) -> None:
    day = await _counted_day(site)
    await site.stores.redis.hincrby(day, "t", 1)
    found = await site.found()
    await site.stores.redis.hincrby(day, "t", -1)

    assert [(finding.where, finding.how_much) for finding in found] == [
        (f"tenant {site.key.tenant}, day", "1 too many")
    ]


async def test_counters_put_right_under_load_are_right(site: Site) -> None:
    await site.stores.redis.hincrby(await _counted_day(site), "t", 10**6)
    scripts = MultiplexedRedis(SecretStr(site.redis_url), timeout_s=5)
    async with site.load():
        repairs = Repairs(site.stores, scripts)
        # What changes between two looks is not reported, and on a busy machine everything may.
        async with asyncio.timeout(FOUND_WITHIN_S):
            while not (found := await site.found()):
                pass
        for finding in found:
            await repairs.close(finding)
        await asyncio.wait_for(_more_served(site, site.served + SERVED_BETWEEN), 30)
        after = await site.found()
    await scripts.aclose()

    assert {finding.kind for finding in found} == {FindingKind.TOKENS_DIFFER}
    assert after == ()
    assert await site.found() == ()


async def test_a_gateway_that_was_killed_under_load_is_whole_again_by_itself(site: Site) -> None:
    async with site.load():
        with site.gateway.app.gone():
            pass
        await site.gateway.ready()
        before = site.served
        await asyncio.wait_for(_more_served(site, before + SERVED_BETWEEN), 30)

    assert await site.found() == ()
