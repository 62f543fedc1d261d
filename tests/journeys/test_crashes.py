"""Deaths and outages: whatever is killed, every admitted request has its one row, and no row is too small.

One instance of two app processes with stores of its own; the tests kill its parts and wait until it is whole.
"""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final
from uuid import UUID

import httpx
import msgspec
import pytest

from app.embedded.process import children_of, is_alive
from db import migrate
from tests.support.asking import NATIVE_STREAM, NATIVE_WHOLE, OPENAI_STREAM, STREAMS, Shape, ask
from tests.support.gateway import READY_WITHIN_S, Gateway, Key, UsageRow
from tests.support.leaving_client import LeavingClient, content_records, leaving_client
from tests.support.ollama import SimulatedOllama
from tests.support.own_stores import OwnPostgres, OwnValkey
from tests.support.processes import app_processes
from tests.support.servers import APP_ROLE
from tests.support.waiting import until

MODEL: Final = "llama3.2"
PROMISED_S: Final = 15.0
IN_FLIGHT: Final = 200
REVOKED_WITHIN_S: Final = 2.0
CONNECTIONS: Final = 24
PROCESSES: Final = 2
DRAIN_S: Final = 1.0
MIX: Final = (NATIVE_STREAM, OPENAI_STREAM, NATIVE_STREAM, NATIVE_WHOLE)


class Instance(msgspec.Struct, frozen=True):
    """Everything that can be killed."""

    gateway: Gateway
    ollama: SimulatedOllama
    postgres: OwnPostgres
    valkey: OwnValkey
    key: Key


class Heard(msgspec.Struct, frozen=True):
    """What one client got: nothing of its request's id before the head came."""

    request_id: UUID | None
    status: int
    content: bytes
    complete: bool

    @property
    def records(self) -> int:
        """Records that carry a token."""
        return content_records(self.content)


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Instance]:
    directory = tmp_path_factory.mktemp("instance")
    # Left open to the unprivileged account that the stores run as when the tests are root's.
    directory.chmod(0o755)
    async with AsyncExitStack() as stack:
        postgres, valkey = OwnPostgres(directory), OwnValkey(directory)
        stack.callback(postgres.stop)
        stack.callback(valkey.kill)
        postgres.start()
        valkey.start()
        await migrate.upgrade(postgres.url, app_role=APP_ROLE)
        ollama = SimulatedOllama.start(models=f"{MODEL}:latest", tokens=30, token_interval_ms=60)
        stack.push_async_callback(ollama.stop)
        gateway = Gateway(
            database_url=postgres.url,
            redis_url=valkey.url,
            backends=[ollama],
            directory=directory,
            settings={"GATEWAY_WORKERS": str(PROCESSES), "GATEWAY_DRAIN_SECONDS": str(DRAIN_S)},
        )
        stack.push_async_callback(gateway.aclose)
        await gateway.start()
        yield Instance(gateway, ollama, postgres, valkey, await gateway.tenant())


@pytest.fixture
async def instance(running: Instance) -> Instance:
    """Give the instance, whole and with nothing in flight."""
    await _whole(running.gateway)
    await running.ollama.wait(in_flight=0, timeout_s=10)
    await running.ollama.reset()
    return running


async def _whole(gateway: Gateway) -> None:
    """Wait until both app processes serve: new connections go to either of them."""
    await until(lambda: len(app_processes(gateway)) == PROCESSES, within_s=READY_WITHIN_S)
    await _everywhere(gateway, "/readyz", httpx.codes.OK)


async def _everywhere(gateway: Gateway, path: str, status: int) -> None:
    """Wait until as many new connections in a row as reach both processes get this status."""
    in_a_row = 0
    async with asyncio.timeout(READY_WITHIN_S):
        while in_a_row < CONNECTIONS:
            in_a_row = in_a_row + 1 if await gateway.status(path) == status else 0


async def hear(instance: Instance, shape: Shape) -> Heard:
    """Ask and listen until the answer or the connection ends."""
    async with leaving_client(instance.gateway.url) as client:
        try:
            await client.post(shape.path, shape.body(MODEL), key=instance.key.text)
            status, headers = await client.head()
        except (EOFError, ConnectionError):
            return Heard(None, 0, b"", complete=False)
        if "content-length" in headers:
            return Heard(client.request_id, status, await client.body(headers), complete=True)
        content, complete = await client.stream()
        return Heard(client.request_id, status, content, complete)


async def in_flight(instance: Instance) -> list[asyncio.Task[Heard]]:
    """Send the requests and return once the backend works on all of them and has said a few words."""
    tasks = [asyncio.create_task(hear(instance, MIX[number % len(MIX)])) for number in range(IN_FLIGHT)]
    await instance.ollama.wait(started=IN_FLIGHT, tokens=3 * IN_FLIGHT // 4, timeout_s=20)
    return tasks


async def every_one_booked_once(instance: Instance, heard: list[Heard]) -> list[UsageRow]:
    """Check the promise on the ledger for all requests the backend saw; return their rows."""
    seen = {
        UUID(str(request.request_id)): request
        for request in await instance.ollama.requests(ended=IN_FLIGHT, timeout_s=10)
    }
    assert len(seen) == IN_FLIGHT
    rows = await instance.gateway.rows(seen, within_s=PROMISED_S)
    received = {one.request_id: one.records for one in heard}
    streamed = {number for number, request in seen.items() if request.body and request.body["stream"]}
    wrong = [
        (row.outcome, received.get(row.request_id, 0), row.tokens_out, seen[row.request_id].tokens)
        for row in rows
        if row.request_id in streamed
        and not received.get(row.request_id, 0) <= row.tokens_out <= seen[row.request_id].tokens
    ]
    assert wrong == []
    return rows


async def test_the_app_killed_with_requests_in_flight(instance: Instance) -> None:
    tasks = await in_flight(instance)

    instance.gateway.app.kill()
    heard = await asyncio.gather(*tasks)
    instance.gateway.app.start()
    await instance.gateway.ready()

    rows = await every_one_booked_once(instance, heard)
    assert not any(one.complete for one in heard)
    assert Counter(row.outcome for row in rows) == {"lost": IN_FLIGHT}


async def test_the_worker_killed_with_requests_in_flight(instance: Instance) -> None:
    tasks = await in_flight(instance)

    instance.gateway.worker.kill()
    heard = await asyncio.gather(*tasks)
    instance.gateway.worker.start()

    rows = await every_one_booked_once(instance, heard)
    assert Counter((one.status, one.complete) for one in heard) == {(200, True): IN_FLIGHT}
    assert Counter(row.outcome for row in rows) == {"completed": IN_FLIGHT}


async def test_valkey_killed_and_wiped_with_requests_in_flight(instance: Instance) -> None:
    tasks = await in_flight(instance)

    instance.valkey.kill()
    during = asyncio.create_task(hear(instance, NATIVE_WHOLE))
    heard = await asyncio.gather(*tasks)
    instance.valkey.start()
    await instance.gateway.ready()

    assert (await during).status == 200
    await instance.ollama.wait(started=IN_FLIGHT + 1)
    assert Counter((one.status, one.complete) for one in heard) == {(200, True): IN_FLIGHT}
    ids = [one.request_id for one in heard if one.request_id]
    rows = await instance.gateway.rows(ids, within_s=PROMISED_S)
    assert Counter(row.outcome for row in rows) == {"completed": IN_FLIGHT}


async def test_one_app_process_killed_is_replaced_and_its_journal_adopted(instance: Instance) -> None:
    victim, survivor = app_processes(instance.gateway)
    tasks = await in_flight(instance)

    os.kill(victim, signal.SIGKILL)
    heard = await asyncio.gather(*tasks)
    rows = await every_one_booked_once(instance, heard)

    outcomes = Counter(row.outcome for row in rows)
    assert set(outcomes) == {"completed", "lost"}
    assert outcomes["completed"] == sum(one.complete for one in heard)
    assert is_alive(survivor)
    await until(lambda: len(app_processes(instance.gateway)) == PROCESSES, within_s=READY_WITHIN_S)


async def test_a_process_killed_again_and_again_takes_nobody_with_it(instance: Instance) -> None:
    survivor, victim = app_processes(instance.gateway)
    for _ in range(3):
        os.kill(victim, signal.SIGKILL)
        await until(lambda: len(app_processes(instance.gateway)) == 1, within_s=READY_WITHIN_S)
        await until(lambda: len(app_processes(instance.gateway)) == PROCESSES, within_s=READY_WITHIN_S)
        (victim,) = set(app_processes(instance.gateway)) - {survivor}

    assert is_alive(survivor)


async def test_a_revoked_key_dies_in_every_process_also_on_open_connections(instance: Instance) -> None:
    key = await instance.gateway.tenant()
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(leaving_client(instance.gateway.url)) for _ in range(CONNECTIONS)
        ]
        assert [await client.get("/api/tags", key=key.text) for client in clients] == [200] * CONNECTIONS
        await instance.gateway.revoke(key)
        revoked_at = time.monotonic()

        took = [await _refused_at(client, key) - revoked_at for client in clients]

    assert max(took) < REVOKED_WITHIN_S


async def _refused_at(client: LeavingClient, key: Key) -> float:
    async with asyncio.timeout(10):
        while await client.get("/api/tags", key=key.text) != 401:
            pass
    return time.monotonic()


async def _known_everywhere(instance: Instance) -> None:
    """Let both app processes see the key."""
    for _ in range(CONNECTIONS):
        async with instance.gateway.client(instance.key) as client:
            await client.get("/api/version")


async def test_without_redis_a_gateway_is_not_ready_but_serves(instance: Instance) -> None:
    instance.valkey.kill()
    try:
        await _everywhere(instance.gateway, "/readyz", httpx.codes.SERVICE_UNAVAILABLE)
        assert await instance.gateway.status("/readyz?exclude=redis") == 200
        assert await instance.gateway.status("/healthz") == 200
        async with instance.gateway.client(instance.key) as client:
            assert (await ask(client, NATIVE_WHOLE, MODEL)).status_code == 200
    finally:
        instance.valkey.start()
    await instance.gateway.ready()


async def test_started_without_redis_it_does_not_say_that_models_are_forbidden(instance: Instance) -> None:
    app = instance.gateway.app
    app.kill()
    instance.valkey.kill()
    app.start()
    try:
        await until(lambda: len(app_processes(instance.gateway)) == PROCESSES, within_s=READY_WITHIN_S)
        await _everywhere(instance.gateway, "/healthz", httpx.codes.OK)
        async with instance.gateway.client(instance.key) as client:
            replies = [await ask(client, shape, MODEL) for shape in (NATIVE_WHOLE, OPENAI_STREAM)]
            replies.append(await client.get("/api/tags"))
    finally:
        instance.valkey.start()

    assert [reply.status_code for reply in replies] == [503] * 3
    assert all(reply.headers["retry-after"] for reply in replies)
    await instance.gateway.ready()


async def test_without_postgres_a_gateway_is_not_ready_but_known_keys_work(instance: Instance) -> None:
    unknown = await instance.gateway.tenant()
    await _known_everywhere(instance)
    instance.postgres.stop()
    try:
        await _everywhere(instance.gateway, "/readyz?exclude=redis", httpx.codes.SERVICE_UNAVAILABLE)
        assert await instance.gateway.status("/healthz") == 200
        async with instance.gateway.client(instance.key) as client:
            known = await ask(client, NATIVE_WHOLE, MODEL)
        async with instance.gateway.client(unknown) as client:
            refused = await ask(client, NATIVE_WHOLE, MODEL)
    finally:
        instance.postgres.start()

    assert (known.status_code, refused.status_code) == (200, 503)
    assert refused.headers["retry-after"]
    assert (await instance.gateway.row(known)).outcome == "completed"
    await instance.gateway.ready()


async def test_told_to_stop_it_lets_streams_finish_and_ends_the_rest_in_band(instance: Instance) -> None:
    await instance.ollama.change(tokens=10, token_interval_ms=40)
    short = [asyncio.create_task(hear(instance, shape)) for shape in STREAMS]
    each = len(STREAMS)
    await instance.ollama.wait(started=each, tokens=each)
    await instance.ollama.change(tokens=500)
    long = [asyncio.create_task(hear(instance, shape)) for shape in STREAMS]
    await instance.ollama.wait(started=2 * each, tokens=4 * each)

    told_at = time.monotonic()
    instance.gateway.app.ask_to_stop()
    try:
        closed_after_s = await _closes_its_door(instance.gateway) - told_at
        code = await instance.gateway.app.ended()
        took_s = time.monotonic() - told_at
        heard = await asyncio.gather(*short, *long)
    finally:
        instance.gateway.app.kill()
        instance.gateway.app.start()
    await instance.gateway.ready()

    assert closed_after_s < DRAIN_S / 2
    assert (code, took_s < DRAIN_S + 5) == (0, True)
    assert [one.content.count(b"the gateway is restarting") for one in heard] == [0] * each + [1] * each
    assert all(one.complete for one in heard)
    ids = [one.request_id for one in heard if one.request_id]
    rows = {row.request_id: row for row in await instance.gateway.rows(ids)}
    assert [rows[number].outcome for number in ids] == ["completed"] * each + ["cut"] * each
    assert all(rows[one.request_id].tokens_out >= one.records for one in heard if one.request_id)


async def _closes_its_door(gateway: Gateway) -> float:
    """Return when a new connection is refused, or told that the gateway is not ready."""
    async with asyncio.timeout(DRAIN_S):
        while await gateway.status("/readyz") == httpx.codes.OK:
            pass
    return time.monotonic()


async def test_told_to_stop_it_cuts_what_is_not_streamed_with_a_503(instance: Instance) -> None:
    await instance.ollama.change(tokens=500, token_interval_ms=40)
    waiting = asyncio.create_task(hear(instance, NATIVE_WHOLE))
    await instance.ollama.wait(started=1)

    instance.gateway.app.ask_to_stop()
    try:
        heard = await waiting
        code = await instance.gateway.app.ended()
    finally:
        instance.gateway.app.kill()
        instance.gateway.app.start()
    await instance.gateway.ready()

    assert (heard.status, code) == (503, 0)
    assert heard.request_id is not None
    (row,) = await instance.gateway.rows([heard.request_id])
    assert (row.outcome, row.estimated) == ("cut", True)


async def test_told_to_stop_it_serves_what_still_arrives_until_its_time_is_over(instance: Instance) -> None:
    await instance.ollama.change(tokens=500, token_interval_ms=40)
    content = json.dumps(NATIVE_WHOLE.body(MODEL, options={"num_predict": 1})).encode()
    head = (
        f"POST {NATIVE_WHOLE.path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {instance.key.text}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    url = instance.gateway.url
    async with leaving_client(url) as early, leaving_client(url) as late:
        for client in (early, late):
            await client.send(head.encode() + content[:10])
        longest = asyncio.create_task(hear(instance, NATIVE_STREAM))
        await instance.ollama.wait(started=1)
        instance.gateway.app.ask_to_stop()
        try:
            while await instance.gateway.status("/readyz") == httpx.codes.OK:
                pass
            await early.send(content[10:])
            served, _ = await early.head()
            await longest
            await late.send(content[10:])
            refused, _ = await late.head()
            code = await instance.gateway.app.ended()
        finally:
            instance.gateway.app.kill()
            instance.gateway.app.start()
    await instance.gateway.ready()

    assert (served, refused, code) == (200, 503, 0)


async def test_told_to_stop_while_it_starts_it_ends_at_once(instance: Instance) -> None:
    app = instance.gateway.app
    app.kill()
    app.start()
    await until(lambda: len(children_of(app.pid)) >= PROCESSES, within_s=READY_WITHIN_S)

    app.ask_to_stop()
    try:
        code = await app.ended(within_s=DRAIN_S + 5)
    finally:
        app.kill()
        app.start()

    assert code == 0
