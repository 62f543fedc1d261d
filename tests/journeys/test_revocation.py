"""A revoked key stops working in every process at once, its running answers too, whoever wrote the revocation."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from statistics import median

import msgspec
import pytest

from db.redis.revocation_channel import seen_by
from db.revocation_wait import BOUND_S, confirmation
from domain.tenants import Actor, TenantStatus
from tests.support.asking import (
    NATIVE_STREAM,
    NATIVE_WHOLE,
    OPENAI_WHOLE,
    STREAMS,
    Shape,
    ends_in_error,
    is_refusal,
    records,
)
from tests.support.counts import count
from tests.support.gateway import Key, request_id
from tests.support.homes import Home
from tests.support.revoking import (
    REFUSED_WITH,
    Way,
    by_deletion,
    by_expiry,
    by_networks,
    by_repository,
    by_sql,
    by_suspension,
)
from tests.support.site import Site, running_site
from worker.listener import APPLICATION_NAME

LLAMA, QWEN = "llama3.2", "qwen3:8b"
LONG = {"tokens": 100_000, "token_interval_ms": 10.0}
CUTS = 'nng_revocation_cuts_total{reason="revoked"}'
INSTANT_S = (
    0.5  # without the fast path every process would take half a second on average, and some a whole one
)


@pytest.fixture(scope="module")
async def running(home: Home) -> AsyncIterator[Site]:
    async with running_site(home) as site:
        yield site


@pytest.fixture
async def site(running: Site) -> Site:
    """Give the site, its backend as it was started, and every process up to date."""
    await running.backend.reset()
    await running.all_listen()
    return running


async def set_status(site: Site, key: Key, status: TenantStatus) -> None:
    async with site.gateway.database.unit_of_work(Actor("test")) as work:
        await work.tenants.set_status(key.tenant, status)


async def rotated(site: Site, key: Key, *, overlap: timedelta) -> Key:
    """Return a key's successor."""
    async with site.gateway.database.unit_of_work(Actor("test")) as work:
        issued = (
            await work.keys(key.tenant_id).rotate(
                str(key.key_id), peppers=site.gateway.peppers, overlap=overlap
            )
        ).issued
    return Key(issued.minted.reveal(), key.tenant, key.tenant_id, issued.summary.id)


async def refusal(site: Site, key: Key) -> tuple[int, bytes]:
    """Return what a caller is told, without what differs from request to request."""
    async with site.gateway.client(key) as client:
        reply = await client.get("/api/tags")
    return reply.status_code, reply.content.replace(reply.headers["x-request-id"].encode(), b"")


WAYS: list[Way] = [by_repository, by_sql, by_deletion, by_expiry, by_networks, by_suspension]


@pytest.mark.parametrize("revoke", WAYS)
async def test_every_process_refuses_on_connections_that_were_open_already(site: Site, revoke: Way) -> None:
    key = await site.gateway.tenant()
    async with site.callers(key) as callers:
        await revoke(site, key)

        await callers.refused_after(time.monotonic(), within_s=BOUND_S)
        assert await callers.statuses() == {401}


async def test_it_takes_moments_and_not_until_each_process_looks(site: Site) -> None:
    lags = []
    for _ in range(5):
        key = await site.gateway.tenant()
        async with site.callers(key) as callers:
            await by_sql(site, key)
            lags.append(await callers.refused_after(time.monotonic(), within_s=BOUND_S))

    assert median(lags) < INSTANT_S, lags


async def test_a_tenant_that_is_let_in_again_is_let_in_by_every_process(site: Site) -> None:
    key = await site.gateway.tenant()
    async with site.callers(key) as callers:
        await by_suspension(site, key)
        await callers.refused_after(time.monotonic(), within_s=BOUND_S)
        await site.sql.execute("UPDATE tenants SET status = 'active' WHERE id = $1", key.tenant_id)
        await site.all_listen()

        assert await callers.statuses() == {200}


async def test_a_suspended_tenant_is_refused_and_cut_until_it_is_activated(site: Site) -> None:
    await site.backend.change(**LONG)
    key = await site.gateway.tenant()
    stranger = msgspec.structs.replace(key, text=await site.gateway.admin_key())
    async with AsyncExitStack() as stack, site.callers(key, each=2) as callers:
        streams = [await site.stream(stack, client, NATIVE_STREAM, LLAMA) for client in callers.clients]
        await set_status(site, key, TenantStatus.SUSPENDED)
        async with asyncio.timeout(BOUND_S):
            replies = [await stream.whole() for stream in streams]

        assert all(ends_in_error(NATIVE_STREAM, reply) for reply in replies)
        assert await refusal(site, key) == await refusal(site, stranger)

        await set_status(site, key, TenantStatus.ACTIVE)
        async with asyncio.timeout(BOUND_S):
            while await callers.statuses() != {200}:
                pass


async def test_a_rotated_key_works_beside_its_successor_as_long_as_it_is_let(site: Site) -> None:
    key = await site.gateway.tenant(LLAMA)
    async with site.callers(key, each=2) as callers:
        successor = await rotated(site, key, overlap=timedelta(hours=1))
        async with site.callers(successor, each=2) as successors:
            assert await callers.chat_statuses() == await successors.chat_statuses() == {200}

            last = await rotated(site, successor, overlap=timedelta(0))
            await successors.refused_after(time.monotonic(), within_s=BOUND_S)
            assert await successors.statuses() == {401}
            async with site.callers(last, each=2) as lasting:
                assert await callers.chat_statuses() == await lasting.chat_statuses() == {200}


async def test_other_keys_of_the_tenant_go_on(site: Site) -> None:
    key = await site.gateway.tenant()
    other = await site.gateway.another_key(key)
    async with site.callers(other) as callers:
        await by_sql(site, key)
        await site.all_listen()

        assert await callers.statuses() == {200}


@pytest.mark.parametrize("revoke", [by_sql, by_suspension, by_networks])
@pytest.mark.parametrize("shape", STREAMS, ids=str)
async def test_running_streams_are_cut_with_an_error_in_their_own_shape(
    site: Site, shape: Shape, revoke: Way
) -> None:
    await site.backend.change(**LONG)
    key = await site.gateway.tenant()
    async with AsyncExitStack() as stack, site.callers(key, each=4) as callers:
        streams = [await site.stream(stack, client, shape, LLAMA) for client in callers.clients]
        await revoke(site, key)
        async with asyncio.timeout(BOUND_S):
            replies = [await stream.whole() for stream in streams]

    assert all(ends_in_error(shape, reply) for reply in replies)


async def test_what_was_cut_is_booked_as_cut_with_what_was_released(site: Site) -> None:
    await site.backend.change(**LONG)
    key = await site.gateway.tenant()
    async with AsyncExitStack() as stack, site.callers(key, each=4) as callers:
        streams = [await site.stream(stack, client, NATIVE_STREAM, LLAMA) for client in callers.clients]
        await by_sql(site, key)
        replies = [await stream.whole() for stream in streams]

    received = {request_id(reply): len(records(reply)) - 1 for reply in replies}
    emitted = {str(seen.request_id): seen.tokens for seen in await site.backend.requests(in_flight=0)}
    rows = await site.gateway.rows(received)
    assert {row.outcome for row in rows} == {"cut"}
    assert all(received[row.request_id] <= row.tokens_out <= emitted[str(row.request_id)] for row in rows), [
        (received[row.request_id], row.tokens_out, emitted[str(row.request_id)]) for row in rows
    ]


@pytest.mark.parametrize("shape", [NATIVE_STREAM, NATIVE_WHOLE, OPENAI_WHOLE], ids=str)
async def test_the_backend_is_let_go(site: Site, shape: Shape) -> None:
    await site.backend.change(**LONG)
    key = await site.gateway.tenant()
    async with site.callers(key, each=2) as callers:
        asking = [
            asyncio.create_task(client.post(shape.path, json=shape.body(LLAMA))) for client in callers.clients
        ]
        await site.backend.wait(started=len(asking))
        await by_sql(site, key)
        await asyncio.gather(*asking)

    seen = await site.backend.requests(in_flight=0, timeout_s=BOUND_S)
    assert {request.outcome for request in seen} == {"client_closed"}


@pytest.mark.parametrize("shape", [NATIVE_WHOLE, OPENAI_WHOLE], ids=str)
async def test_who_still_waits_for_the_first_byte_is_told_401(site: Site, shape: Shape) -> None:
    await site.backend.change(**LONG)
    key = await site.gateway.tenant()
    async with site.callers(key, each=2) as callers:
        asking = [
            asyncio.create_task(client.post(shape.path, json=shape.body(LLAMA))) for client in callers.clients
        ]
        await site.backend.wait(started=len(asking))
        await by_sql(site, key)
        replies = await asyncio.gather(*asking)

    assert {reply.status_code for reply in replies} == {401}
    assert all(is_refusal(shape, reply) for reply in replies)
    assert {row.outcome for row in await site.gateway.rows(map(request_id, replies))} == {"cut"}


async def test_a_grant_taken_away_cuts_the_streams_of_that_model_only(site: Site) -> None:
    await site.backend.change(**LONG)
    key = await site.gateway.tenant(LLAMA, QWEN)
    async with AsyncExitStack() as stack, site.callers(key, each=4) as callers:
        llamas = [await site.stream(stack, client, NATIVE_STREAM, LLAMA) for client in callers.clients[::2]]
        qwens = [await site.stream(stack, client, NATIVE_STREAM, QWEN) for client in callers.clients[1::2]]
        await site.sql.execute(
            "DELETE FROM model_grants WHERE tenant_id = $1 AND pattern LIKE 'llama%'", key.tenant_id
        )
        cut = [await stream.whole() for stream in llamas]
        await site.all_listen()
        before = (await site.backend.stats()).tokens
        running = await site.backend.wait(tokens=before + 10 * len(qwens))

        assert running.in_flight == len(qwens)
        await by_sql(site, key)
        await asyncio.gather(*(stream.whole() for stream in qwens))
    assert all(ends_in_error(NATIVE_STREAM, reply) for reply in cut)


async def test_who_waits_for_a_model_that_is_taken_away_is_told_403(site: Site) -> None:
    await site.backend.change(**LONG)
    key = await site.gateway.tenant(LLAMA)
    async with site.callers(key, each=1) as callers:
        asking = [
            asyncio.create_task(client.post("/api/chat", json=NATIVE_WHOLE.body(LLAMA)))
            for client in callers.clients
        ]
        await site.backend.wait(started=len(asking))
        await site.sql.execute("DELETE FROM model_grants WHERE tenant_id = $1", key.tenant_id)

        assert {reply.status_code for reply in await asyncio.gather(*asking)} == {403}


async def test_limits_and_policies_change_nothing_for_what_runs(site: Site) -> None:
    await site.backend.change(**LONG)
    key = await site.gateway.tenant()
    async with AsyncExitStack() as stack, site.callers(key, each=4) as callers:
        streams = [await site.stream(stack, client, NATIVE_STREAM, LLAMA) for client in callers.clients]
        await site.sql.execute(
            "UPDATE tenant_limits SET rpm = 100000, option_policy = $2 WHERE tenant_id = $1",
            key.tenant_id,
            '{"think": {"action": "strip"}}',
        )
        await site.all_listen()
        before = (await site.backend.stats()).tokens
        running = await site.backend.wait(tokens=before + 10 * len(streams))

        assert running.in_flight == len(streams)
        await by_sql(site, key)
        await asyncio.gather(*(stream.whole() for stream in streams))


async def test_a_body_that_arrives_while_the_key_is_revoked_reaches_no_backend(site: Site) -> None:
    key = await site.gateway.tenant()
    whole = b'{"model": "llama3.2", "messages": [], "stream": false}'

    async def slow() -> AsyncIterator[bytes]:
        yield whole[:10]
        await by_sql(site, key)
        await site.all_listen()
        yield whole[10:]

    async with site.callers(key, each=1) as callers:
        reply = await callers.clients[0].post(
            "/api/chat", content=slow(), headers={"Content-Type": "application/json"}
        )

    assert reply.status_code == 401
    assert await site.backend.requests() == []


async def test_a_listening_connection_that_is_cut_misses_nothing(site: Site) -> None:
    key = await site.gateway.tenant()
    async with site.callers(key) as callers:
        async with site.sql.transaction():
            await site.sql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
                APPLICATION_NAME,
            )
            await by_sql(site, key)

        await callers.refused_after(time.monotonic(), within_s=BOUND_S)
        assert await callers.statuses() == {401}


async def test_who_waits_for_the_revocation_learns_that_all_processes_have_acted(site: Site) -> None:
    key = await site.gateway.tenant()
    async with site.callers(key) as callers:
        await by_sql(site, key)
        found = await confirmation(
            await site.newest(), seen=lambda: seen_by(site.redis), since=time.monotonic()
        )

        assert (len(found.confirmed), found.missing) == (4, ())
        assert await callers.statuses() == {401}


async def test_lag_sequence_and_cuts_are_measured(site: Site) -> None:
    await site.backend.change(**LONG)
    key = await site.gateway.tenant()
    async with AsyncExitStack() as stack, site.callers(key, each=2) as callers:
        before = await site.gateway.metrics()
        streams = [await site.stream(stack, client, NATIVE_STREAM, LLAMA) for client in callers.clients[:2]]
        await by_sql(site, key)
        await asyncio.gather(*(stream.whole() for stream in streams))
        await site.all_listen()
    async with asyncio.timeout(5):
        after = before
        while after.get(CUTS, 0) < before.get(CUTS, 0) + 2:
            # A process shows its counters at its next flush.
            after = await site.gateway.metrics()

    assert after["nng_revocation_seq"] >= await site.newest() - 1
    assert after["nng_revocation_lag_seconds_count"] > before["nng_revocation_lag_seconds_count"]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("revoke", REFUSED_WITH)
async def test_no_request_succeeds_after_the_confirmation(site: Site, revoke: Way) -> None:
    keys = count(2, 20)
    tries = count(2_000, 100_000) // len(REFUSED_WITH) // keys
    for _ in range(keys):
        key = await site.gateway.tenant(LLAMA)
        async with site.callers(key, each=4) as callers:
            await site.reach_every_process(callers)
            await revoke(site, key)
            found = await confirmation(
                await site.newest(), seen=lambda: seen_by(site.redis), since=time.monotonic()
            )
            assert not found.missing

            assert await callers.statuses_from(time.monotonic(), tries=tries) == {REFUSED_WITH[revoke]}
