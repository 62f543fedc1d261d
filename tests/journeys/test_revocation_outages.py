"""Without worker, Redis or news a revocation takes two seconds at most: every process looks by itself."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, AsyncExitStack

import pytest
from redis.exceptions import RedisError

from app.embedded.process import children_of
from db.redis.revocation_channel import seen_by
from db.revocation_wait import BOUND_S, confirmation
from tests.support.asking import NATIVE_STREAM, ends_in_error
from tests.support.counts import count
from tests.support.gateway import Key
from tests.support.homes import Home
from tests.support.revoking import REFUSED_WITH
from tests.support.site import PROCESSES, Site, running_site
from tests.support.stoppable import StoppableValkey

LONG = {"tokens": 100_000, "token_interval_ms": 10.0}
OUTAGES = ("worker gone", "Redis gone", "Redis silent")


@pytest.fixture(scope="module")
async def running(own_home: Home) -> AsyncIterator[Site]:
    async with running_site(own_home) as site:
        yield site


@pytest.fixture
async def site(running: Site) -> Site:
    """Give the site, whole again."""
    await running.backend.reset()
    await running.all_listen()
    await running.gateway.knows(1)
    return running


def outage(what: str, site: Site, valkey: StoppableValkey) -> AbstractContextManager[None]:
    """Let something be out of order for the length of a block."""
    if what == "worker gone":
        return site.gateway.worker.gone()
    return valkey.gone() if what == "Redis gone" else valkey.silent()


async def revoke(site: Site, key: Key) -> float:
    """Revoke by SQL and return when that was committed."""
    await site.sql.execute("UPDATE api_keys SET status = 'revoked' WHERE id = $1", key.key_id)
    return time.monotonic()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("what", OUTAGES)
async def test_no_request_succeeds_after_the_bound_whoever_revoked(
    site: Site, own_valkey: StoppableValkey, what: str
) -> None:
    tries = count(2_000 // len(OUTAGES), 100_000) // len(REFUSED_WITH)
    async with AsyncExitStack() as stack:
        keys = {way: await site.gateway.tenant("llama3.2") for way in REFUSED_WITH}
        everybody = {
            way: await stack.enter_async_context(site.callers(key, each=4)) for way, key in keys.items()
        }
        for callers in everybody.values():
            await site.reach_every_process(callers)
        with outage(what, site, own_valkey):
            for way, key in keys.items():
                await way(site, key)
            bound = time.monotonic() + BOUND_S
            found = await asyncio.gather(
                *(callers.statuses_from(bound, tries=tries) for callers in everybody.values())
            )

    assert dict(zip(everybody, found, strict=True)) == {way: {code} for way, code in REFUSED_WITH.items()}


@pytest.mark.parametrize("what", OUTAGES)
async def test_running_streams_are_cut_within_the_bound(
    site: Site, own_valkey: StoppableValkey, what: str
) -> None:
    await site.backend.change(**LONG)
    key = await site.gateway.tenant()
    async with AsyncExitStack() as stack, site.callers(key, each=4) as callers:
        streams = [await site.stream(stack, client, NATIVE_STREAM, "llama3.2") for client in callers.clients]
        with outage(what, site, own_valkey):
            committed = await revoke(site, key)
            async with asyncio.timeout(2 * BOUND_S):
                replies = [await stream.whole() for stream in streams]
            took = time.monotonic() - committed

    assert all(ends_in_error(NATIVE_STREAM, reply) for reply in replies)
    assert took < BOUND_S


async def test_without_a_worker_every_process_still_confirms(site: Site) -> None:
    key = await site.gateway.tenant()
    with site.gateway.worker.gone():
        committed = await revoke(site, key)
        found = await confirmation(await site.newest(), seen=lambda: seen_by(site.redis), since=committed)

    assert (len(found.confirmed), found.missing) == (PROCESSES, ())


async def test_without_redis_nobody_can_confirm(site: Site, own_valkey: StoppableValkey) -> None:
    with own_valkey.gone(), pytest.raises(RedisError):
        await confirmation(1, seen=lambda: seen_by(site.redis), since=time.monotonic())


async def test_a_process_that_does_not_confirm_is_named(site: Site) -> None:
    asleep = children_of(site.gateway.app.pid)[0]
    names = await seen_by(site.redis)
    (name,) = (name for name in names if f":{asleep}:" in name)
    key = await site.gateway.tenant()
    os.kill(asleep, signal.SIGSTOP)
    try:
        committed = await revoke(site, key)
        found = await confirmation(
            await site.newest(), seen=lambda: seen_by(site.redis), since=committed, within_s=1.0
        )
    finally:
        os.kill(asleep, signal.SIGCONT)

    assert (found.missing, len(found.confirmed)) == ((name,), PROCESSES - 1)


async def test_a_lost_subscription_loses_no_revocation(site: Site) -> None:
    key = await site.gateway.tenant()
    async with site.callers(key) as callers:
        await site.redis.client_kill_filter(_type="pubsub")

        await callers.refused_after(await revoke(site, key), within_s=BOUND_S)


async def test_a_redis_that_lost_its_memory_spreads_the_next_revocation_again(site: Site) -> None:
    await site.redis.flushall()
    await site.all_listen()
    await site.gateway.knows(1)
    key = await site.gateway.tenant()
    async with site.callers(key) as callers:
        committed = await revoke(site, key)
        found = await confirmation(await site.newest(), seen=lambda: seen_by(site.redis), since=committed)

        assert found.missing == ()
        assert await callers.statuses() == {401}
