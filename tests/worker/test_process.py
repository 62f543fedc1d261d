"""The worker as the process it is: started, starved of Redis, told to stop, killed."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from db.redis.connection import connect_patient
from db.redis.model_table_read import ModelTableReader
from db.redis.queue import GatewayJob, GatewayQueue
from db.redis.usage_stream import BatchRange, HolderStream
from domain.model_table import BackendCondition, ModelTable
from domain.usage import UsageRecord
from tests.support.scripted_backend import closed_port, scripted_backend
from tests.support.usage import admission, settlement

PATIENCE_S = 30

# An idle worker takes one dequeue of a second; the rest is room for a busy machine.
STOP_LIMIT_S = 4


class WorkerProcess:
    """One `python -m worker`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    async def logged(self, event: str) -> dict[str, Any]:
        """Return the next line of that event."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while line := await self.process.stderr.readline():
                self.lines.append(json.loads(line))
                if self.lines[-1]["event"] == event:
                    return self.lines[-1]
        raise AssertionError(f"the worker ended without {event}: {self.lines}")

    async def failed(self, job: str) -> dict[str, Any]:
        """Return the next failure of that job; without Postgres others fail as well."""
        while (failure := await self.logged("job_failed"))["job"] != job:
            pass
        return failure

    def cpu_s(self) -> float:
        """Return the CPU seconds used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def stop(self) -> float:
        """Send SIGTERM; return the seconds until it ended well."""
        before = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        await self.logged("worker_stopped")
        async with asyncio.timeout(PATIENCE_S):
            assert await self.process.wait() == 0
        return time.monotonic() - before


@asynccontextmanager
async def worker(redis_url: str, **environ: str) -> AsyncIterator[WorkerProcess]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "worker",
        env={
            "PATH": os.defpath,
            "REDIS_URL": redis_url,
            # Nobody is there: a worker needs no Postgres to start.
            "DATABASE_URL": "postgresql://nobody:nothing@127.0.0.1:1/none",
            "GATEWAY_WORKER_HEALTH_PORT": "0",
            "MODEL_DISCOVERY_INTERVAL_SECONDS": "0.5",
            "MODEL_DISCOVERY_TIMEOUT_SECONDS": "60",
            **environ,
        },
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield WorkerProcess(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_patient(SecretStr(redis_url)) as client:
        yield client


async def next_table(redis: Redis, *, after: int = 0) -> ModelTable:
    """Return the first table newer than a version."""
    reader = ModelTableReader(redis)
    async with asyncio.timeout(PATIENCE_S), reader.changes() as changes:
        async for version in changes:
            if version > after:
                table = await reader.read_table()
                assert table is not None
                return table
    raise AssertionError


def backends(**urls: str) -> Mapping[str, str]:
    return {"OLLAMA_BACKENDS": json.dumps([{"name": name, "base_url": url} for name, url in urls.items()])}


async def test_a_worker_with_one_address_fills_the_table_and_stops_quickly(
    redis: Redis, redis_url: str
) -> None:
    async with (
        scripted_backend() as backend,
        worker(redis_url, OLLAMA_BASE_URL=backend.url, OLLAMA_AUTH_TOKEN="t") as running,
    ):
        started = await running.logged("worker_started")
        table = await next_table(redis)
        page = f"http://127.0.0.1:{started['health_port']}"
        async with httpx.AsyncClient(trust_env=False) as client:
            statuses = [(await client.get(page + path)).status_code for path in ("/healthz", "/readyz")]
        took_s = await running.stop()

        assert [(state.name, state.condition) for state in table.backends] == [
            ("default", BackendCondition.OK)
        ]
        assert [model.name for model in table.backends[0].models] == ["llama3.2:latest"]
        assert {headers["authorization"] for _, headers in backend.requests} == {"bearer t"}
        assert statuses == [200, 200]
        assert took_s < STOP_LIMIT_S


async def test_a_list_of_one_named_default_makes_the_same_table(redis: Redis, redis_url: str) -> None:
    async with scripted_backend() as backend:
        async with worker(redis_url, OLLAMA_BASE_URL=backend.url) as running:
            alone = await next_table(redis)
            await running.stop()
        async with worker(redis_url, **backends(default=backend.url)):
            listed = await next_table(redis, after=alone.version)

    assert [state.config_digest for state in listed.backends] == [
        state.config_digest for state in alone.backends
    ]
    assert [state.models for state in listed.backends] == [state.models for state in alone.backends]


async def test_a_worker_waits_calmly_for_redis_and_begins_when_it_comes(redis: Redis, redis_url: str) -> None:
    address = urlsplit(redis_url)
    with socket.socket() as later:
        later.bind(("127.0.0.1", 0))
        port = later.getsockname()[1]
        url = redis_url.replace(f":{address.port}", f":{port}")
        async with scripted_backend() as backend, worker(url, OLLAMA_BASE_URL=backend.url) as running:
            await running.logged("queue_unreachable")
            used_before = running.cpu_s()
            await asyncio.sleep(2)  # the time over which the use of CPU is measured
            used_s = running.cpu_s() - used_before
            async with forwarding(later, int(address.port or 0)):
                table = await next_table(redis)
                await running.logged("queue_reachable_again")
                took_s = await running.stop()

    assert used_s < 0.4
    assert table.backends[0].condition is BackendCondition.OK
    assert took_s < STOP_LIMIT_S


@asynccontextmanager
async def forwarding(listener: socket.socket, port: int) -> AsyncIterator[None]:
    """Let a bound socket lead to another port for a while."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    tasks: set[asyncio.Task[None]] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        for task in (asyncio.create_task(pump(reader, back)), asyncio.create_task(pump(there, writer))):
            tasks.add(task)

    server = await asyncio.start_server(forward, sock=listener)
    try:
        yield
    finally:
        server.close()
        await asyncio.wait(tasks, timeout=5)


async def test_a_worker_told_to_stop_while_it_waits_for_redis_stops_quickly() -> None:
    async with closed_port() as port, worker(f"redis://127.0.0.1:{port}") as running:
        await running.logged("queue_unreachable")

        assert await running.stop() < STOP_LIMIT_S


async def test_a_hostile_job_harms_nobody(redis: Redis, redis_url: str) -> None:
    queue = GatewayQueue(redis)
    await queue.enqueue(GatewayJob(function="os.system", kwargs={"command": "true"}, key="hostile-1"))
    await queue.enqueue(GatewayJob(function="discovery.poll", kwargs={"url": "http://x"}, key="hostile-2"))
    await redis.rpush(queue.namespace("queued"), queue.job_id("nothing"))
    async with scripted_backend() as backend, worker(redis_url, OLLAMA_BASE_URL=backend.url) as running:
        hostile = {"os.system", "discovery.poll"}
        while hostile:  # `logged` gives up if the worker does not refuse both
            hostile.discard((await running.logged("job_failed"))["job"])
        table = await next_table(redis)

    assert table.backends[0].condition is BackendCondition.OK


async def test_an_outage_of_postgres_is_said_every_time_but_explained_once(
    redis: Redis, redis_url: str
) -> None:
    record = msgspec.msgpack.encode(UsageRecord(admission(), settlement()))
    await HolderStream(redis, max_records=10).append("holding", BatchRange(1, 1), [record])
    async with (
        closed_port() as port,
        worker(redis_url, OLLAMA_BASE_URL=f"http://127.0.0.1:{port}") as running,
    ):
        failures = [await running.failed("usage.account") for _ in range(3)]

        assert await running.stop() < STOP_LIMIT_S

    assert ["exception" in failure for failure in failures] == [True, False, False]


async def test_the_work_of_a_killed_worker_goes_on_in_another(redis: Redis, redis_url: str) -> None:
    async with scripted_backend() as hanging, scripted_backend() as good:
        hanging.scripts["/api/version"] = None
        urls = backends(hanging=hanging.url, good=good.url)
        async with worker(redis_url, **urls) as first:
            left = await next_table(redis)
            first.process.kill()
            await first.process.wait()
        async with worker(redis_url, **urls):
            before = time.monotonic()
            taken_over = await next_table(redis, after=left.version)

    assert taken_over.backends[1].condition is BackendCondition.OK
    assert time.monotonic() - before < 15


async def test_a_wrong_setting_ends_the_start_with_one_sentence(redis_url: str) -> None:
    async with worker(redis_url, MODEL_DISCOVERY_INTERVAL_SECONDS="soon") as running:
        _, said = await running.process.communicate()

    assert said == b"MODEL_DISCOVERY_INTERVAL_SECONDS must be a number.\n"
    assert running.process.returncode == 2


async def test_a_health_port_in_use_ends_the_start_with_one_sentence(redis_url: str) -> None:
    async with scripted_backend() as other:
        port = str(urlsplit(other.url).port)
        async with worker(redis_url, GATEWAY_WORKER_HEALTH_PORT=port) as running:
            _, said = await running.process.communicate()

    assert said.decode().count("\n") == 1
    assert said.startswith(b"GATEWAY_WORKER_HEALTH_HOST and GATEWAY_WORKER_HEALTH_PORT")
    assert running.process.returncode == 2
