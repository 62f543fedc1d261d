"""What `bench.revocation` runs and asks: four app processes, their backends, the load, and one round of it."""

import asyncio
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

import asyncpg
import httpx

from app.embedded.environment import neutral_environment
from app.embedded.process import children_of
from app.embedded.running import running_environment
from bench.processes import first_line, running
from bench.revocation_floor import Floor
from db.postgres import Database, create_engine
from domain.keys import PepperRing
from domain.tenants import Actor
from domain.values import KeyId, TenantId

PROCESSES = 4
REQUESTS_PER_S = 200
PROBE_S = 0.002
ROUND_PAUSE_S = 0.05
LIMIT_S = 10.0
FAST, SLOW = "llama3.2", "qwen3:8b"
OK = 200
READY_WITHIN_S = 60.0
REPOSITORY = Path(__file__).parents[1]
CORES = frozenset(os.sched_getaffinity(0))
REVOKE = "UPDATE api_keys SET status = 'revoked' WHERE id = $1"


class Way(StrEnum):
    """How a key is revoked, and what is out of order meanwhile."""

    SQL = "by plain SQL"
    REPOSITORY = "by the repository"
    WITHOUT_WORKER = "by plain SQL, worker stopped"
    WITHOUT_REDIS = "by plain SQL, Redis stopped"

    @property
    def is_outage(self) -> bool:
        """Whether something is stopped."""
        return self in STOPPED


STOPPED: Mapping[Way, bytes] = {Way.WITHOUT_WORKER: b"-m\0worker", Way.WITHOUT_REDIS: b"valkey-server"}
"""What the command line of the stopped process says."""


class Rounds:
    """What was measured under one circumstance, in seconds, one entry per round."""

    WORDS: ClassVar[Mapping[str, str]] = {
        "commit": "commit itself",
        "floor": f"floor: NOTIFY -> pub/sub, last of {PROCESSES}",
        "refused": f"refused by the last of {PROCESSES} processes",
        "cut": f"stream cut by the last of {PROCESSES} processes",
        "let_go": f"backend let go of the last of {PROCESSES} streams",
    }

    def __init__(self, way: Way) -> None:
        self.way = way
        self.times: dict[str, list[float]] = {name: [] for name in self.WORDS}


class Connection:
    """One kept-alive HTTP connection that asks one thing at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """Connect to a process."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, request: bytes) -> int:
        """Return the status of an answer in one piece."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        )
        await self._reader.readexactly(length)
        return int(head[9:12])

    async def begin(self, request: bytes) -> None:
        """Ask for a stream and return once its first record is here."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise RuntimeError(f"no stream: {head!r}")
        await self._reader.readuntil(b"\n")

    async def end(self) -> float:
        """Return when the stream ended; it must end with an error."""
        rest = await self._reader.readuntil(b"\r\n0\r\n\r\n")
        now = time.monotonic()
        if b'"error"' not in rest:
            raise RuntimeError("a stream ended as if it were complete")
        return now

    async def close(self) -> None:
        """Close it."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


def get(key: str) -> bytes:
    """Return the bytes of a request for the catalogue."""
    return f"GET /api/tags HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n\r\n".encode()


def chat(key: str, model: str, *, stream: bool) -> bytes:
    """Return the bytes of a chat request."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream})
    head = f"POST /api/chat HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


class Rig:
    """Everything that runs, seen by the one who measures; `load` counts the requests beside the measuring."""

    def __init__(self, ports: Sequence[int], environ: Mapping[str, str], *, backend: str, up: int) -> None:
        self._ports = ports
        self._environ = environ
        self._backend = backend
        self._up = up
        self.load = 0
        self.load_failed = 0

    @asynccontextmanager
    async def loaded(self, rounds: int) -> AsyncIterator[None]:
        """Be ready for so many rounds, under load, until the block ends."""
        for port in self._ports:
            await _until_ready(port)
        self._database = Database(create_engine(self._environ["DATABASE_URL"], application_name="bench"))
        self._sql = await asyncpg.connect(self._environ["DATABASE_URL"])
        self._simulator = httpx.AsyncClient(base_url=self._backend, trust_env=False)
        self._tenant, (background, *self._keys) = await self._mint(rounds + 1)
        self._floor = await Floor.start(self._environ, subscribers=PROCESSES)
        load = [asyncio.create_task(self._load(port, background[0])) for port in self._ports]
        try:
            yield
        finally:
            for task in load:
                task.cancel()
            await asyncio.gather(*load, return_exceptions=True)
            await self._floor.stop()
            await self._simulator.aclose()
            await self._sql.close()
            await self._database.aclose()

    async def _mint(self, number: int) -> tuple[TenantId, list[tuple[str, KeyId]]]:
        peppers = PepperRing.parse(self._environ["GATEWAY_KEY_PEPPER"])
        async with self._database.unit_of_work(Actor("bench")) as work:
            tenant = await work.tenants.create("bench", "bench", allow_all_models=True)
            issued = [await work.keys(tenant.id).create("bench", peppers=peppers) for _ in range(number)]
        return tenant.id, [(each.minted.reveal(), each.summary.id) for each in issued]

    @contextmanager
    def stopped(self, way: Way) -> Iterator[None]:
        """Stop (SIGSTOP) what is out of order in this way until the block ends."""
        (pid,) = (
            pid for pid in children_of(self._up) if STOPPED[way] in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    async def round(self, rounds: Rounds) -> None:
        """Revoke one key and take all times."""
        times = rounds.times
        if not rounds.way.is_outage:
            times["floor"].append(await self._floor.round(self._sql))
        key, key_id = self._keys.pop()
        await self._simulator.delete("/_sim/requests")
        streams = [await Connection.open(port) for port in self._ports]
        probes = [await Connection.open(port) for port in self._ports]
        await asyncio.gather(*(stream.begin(chat(key, SLOW, stream=True)) for stream in streams))
        cut = [asyncio.create_task(stream.end()) for stream in streams]
        for probe in probes:
            await probe.ask(get(key))
        await asyncio.sleep(ROUND_PAUSE_S)
        began = time.monotonic()
        await self._revoke(rounds.way, key_id)
        committed = time.monotonic()
        times["commit"].append(committed - began)
        refused = [asyncio.create_task(self._refusal(probe, get(key))) for probe in probes]
        async with asyncio.timeout(LIMIT_S):
            times["refused"].append(max(await asyncio.gather(*refused)) - committed)
            times["cut"].append(max(await asyncio.gather(*cut)) - committed)
        times["let_go"].append(await self._let_go() - committed)
        for connection in (*streams, *probes):
            await connection.close()
        # Without news each process looks every second: the rounds must not keep step with that.
        await asyncio.sleep(random.random() if rounds.way.is_outage else ROUND_PAUSE_S)
        print(".", end="", file=sys.stderr, flush=True)

    async def _revoke(self, way: Way, key_id: KeyId) -> None:
        if way is not Way.REPOSITORY:
            await self._sql.execute(REVOKE, key_id)
            return
        async with self._database.unit_of_work(Actor("bench")) as work:
            await work.keys(self._tenant).revoke(str(key_id))

    @staticmethod
    async def _refusal(connection: Connection, request: bytes) -> float:
        """Ask again and again; return when the first refusal was here."""
        while await connection.ask(request) == OK:  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(PROBE_S)
        return time.monotonic()

    async def _let_go(self) -> float:
        """Return when the backend saw the last of its streams closed; its clock is ours."""
        reply = await self._simulator.get("/_sim/requests", params={"in_flight": 0, "timeout_s": LIMIT_S})
        return max(float(request["ended_s"]) for request in reply.json()["requests"])

    async def _load(self, port: int, key: str) -> None:
        connection = await Connection.open(port)
        request, pause = chat(key, FAST, stream=False), len(self._ports) / REQUESTS_PER_S
        due = time.monotonic()
        try:
            while True:
                self.load += 1
                self.load_failed += await connection.ask(request) != OK
                due += pause
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        finally:
            await connection.close()


@contextmanager
def site(directory: Path) -> Iterator[Rig]:
    """Run `up` with its one app process, and further ones beside it."""
    with ExitStack() as stack:
        backends = [
            {"name": name, "base_url": stack.enter_context(_simulator(directory, name, model, *words))}
            for name, model, words in (
                ("fast", FAST, ("--token-interval-ms", "0")),
                ("slow", SLOW, ("--token-interval-ms", "25", "--tokens", "100000")),
            )
        ]
        ours = {"OLLAMA_BACKENDS": json.dumps(backends), "GATEWAY_WORKERS": "1"}
        state = directory / "state"
        words = ("app", "up", "--json", "--port", "0", "--state-dir", str(state))
        up, ready = stack.enter_context(
            _program(directory, "up", words, neutral_environment(os.environ) | ours)
        )
        environ = running_environment(state)
        if environ is None:
            raise RuntimeError("the gateway has gone")
        ports = [int(json.loads(ready)["url"].rpartition(":")[2])]
        ports += [
            stack.enter_context(_further_app(directory, number, environ)) for number in range(1, PROCESSES)
        ]
        yield Rig(ports, environ, backend=backends[-1]["base_url"], up=up)


@contextmanager
def _further_app(directory: Path, number: int, environ: Mapping[str, str]) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    log = directory / f"app-{number}"
    own = {**environ, "GATEWAY_PORT": str(port)}
    with running(
        (sys.executable, "-m", "app", "serve"), cores=CORES, environ=own, cwd=REPOSITORY, errors=log
    ):
        yield port


@contextmanager
def _simulator(directory: Path, name: str, model: str, *words: str) -> Iterator[str]:
    command = ("app.simulator", "--name", name, "--models", model, "--exit-with-parent", *words)
    with _program(directory, name, command, neutral_environment(os.environ)) as (_, ready):
        yield json.loads(ready)["url"]


@contextmanager
def _program(
    directory: Path, name: str, words: Sequence[str], environ: Mapping[str, str]
) -> Iterator[tuple[int, str]]:
    """Run a program of ours that says in one line when it is ready; give its process id and that line."""
    log = directory / name
    command = (sys.executable, "-m", *words)
    with running(command, cores=CORES, environ=environ, cwd=REPOSITORY, errors=log) as child:
        yield child.pid, first_line(child, log)


async def _until_ready(port: int) -> None:
    async with asyncio.timeout(READY_WITHIN_S):
        while True:
            try:
                connection = await Connection.open(port)
                status = await connection.ask(b"GET /readyz HTTP/1.1\r\nHost: bench\r\n\r\n")
                await connection.close()
                if status == OK:
                    return
            except OSError:
                pass
            await asyncio.sleep(ROUND_PAUSE_S)
