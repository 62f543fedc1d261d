"""`python -m bench.revocation`: from the commit of a revocation to its effect in four processes under load.

Each round revokes one key by plain SQL and takes the time until every process has refused it and until every
process has cut a stream of it; and, in the same second, the floor: a bare NOTIFY, relayed to as many subscribers
through Redis by a program that does nothing else. Times count from the moment the commit was acknowledged.
"""

import argparse
import asyncio
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import uvloop

from app.embedded.environment import neutral_environment
from app.embedded.running import running_environment
from bench.processes import first_line, running
from db.postgres import Database, create_engine
from domain.keys import PepperRing
from domain.tenants import Actor

PROCESSES = 4
REQUESTS_PER_S = 200
PROBE_S = 0.002
ROUND_PAUSE_S = 0.05
LIMIT_S = 3.0
FAST, SLOW = "llama3.2", "qwen3:8b"
OK = 200
READY_WITHIN_S = 60.0
FLOOR_CHANNEL = "bench_floor"
REPOSITORY = Path(__file__).parents[1]
CORES = frozenset(os.sched_getaffinity(0))
REVOKE = "UPDATE api_keys SET status = 'revoked' WHERE id = $1"


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

    def close(self) -> None:
        """Close it."""
        self._writer.close()


def get(key: str) -> bytes:
    """Return the bytes of a request for the catalogue."""
    return f"GET /api/tags HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n\r\n".encode()


def chat(key: str, model: str, *, stream: bool) -> bytes:
    """Return the bytes of a chat request."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream})
    head = f"POST /api/chat HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


class Rounds:
    """What was measured, in seconds, one entry per round."""

    def __init__(self) -> None:
        self.commit: list[float] = []
        self.floor: list[float] = []
        self.refused: list[float] = []
        self.cut: list[float] = []
        self.load = 0
        self.load_failed = 0

    def lines(self) -> list[str]:
        """Return the table."""
        rows = (
            ("commit itself", self.commit),
            (f"floor: NOTIFY -> pub/sub, last of {PROCESSES}", self.floor),
            (f"refused by the last of {PROCESSES} processes", self.refused),
            (f"stream cut by the last of {PROCESSES} processes", self.cut),
        )
        head = f"{'ms after the commit':<46}{'p50':>8}{'p90':>8}{'p99':>8}{'max':>8}"
        return [
            head,
            *(f"{name:<46}" + "".join(f"{v * 1000:8.1f}" for v in _spread(of)) for name, of in rows),
        ]


def _spread(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [ordered[min(len(ordered) - 1, int(len(ordered) * q))] for q in (0.5, 0.9, 0.99, 1.0)]


class Rig:
    """Everything that runs, seen by the one who measures."""

    def __init__(self, ports: Sequence[int], environ: Mapping[str, str], rounds: Rounds) -> None:
        self._ports = ports
        self._environ = environ
        self._rounds = rounds

    async def run(self, number: int) -> None:
        """Run so many rounds under load."""
        sql = await asyncpg.connect(self._environ["DATABASE_URL"])
        background, *keys = await self._mint(number + 1)
        floor = await _Floor.start(self._environ)
        load = [asyncio.create_task(self._load(port, background[0])) for port in self._ports]
        try:
            for text, key_id in keys:
                self._rounds.floor.append(await floor.round(sql))
                await self._round(sql, text, key_id)
                await asyncio.sleep(ROUND_PAUSE_S)
                print(".", end="", file=sys.stderr, flush=True)
        finally:
            for task in load:
                task.cancel()
            await asyncio.gather(*load, return_exceptions=True)
            await floor.stop()
            await sql.close()

    async def _mint(self, number: int) -> list[tuple[str, Any]]:
        database = Database(create_engine(self._environ["DATABASE_URL"], application_name="bench"))
        peppers = PepperRing.parse(self._environ["GATEWAY_KEY_PEPPER"])
        async with database.unit_of_work(Actor("bench")) as work:
            tenant = await work.tenants.create("bench", "bench", allow_all_models=True)
            issued = [await work.keys(tenant.id).create("bench", peppers=peppers) for _ in range(number)]
        await database.aclose()
        return [(each.minted.reveal(), each.summary.id) for each in issued]

    async def _round(self, sql: asyncpg.Connection, key: str, key_id: Any) -> None:
        streams = [await Connection.open(port) for port in self._ports]
        probes = [await Connection.open(port) for port in self._ports]
        await asyncio.gather(*(stream.begin(chat(key, SLOW, stream=True)) for stream in streams))
        cut = [asyncio.create_task(stream.end()) for stream in streams]
        for probe in probes:
            await probe.ask(get(key))
        await asyncio.sleep(ROUND_PAUSE_S)
        began = time.monotonic()
        await sql.execute(REVOKE, key_id)
        committed = time.monotonic()
        refused = [asyncio.create_task(self._refusal(probe, get(key))) for probe in probes]
        async with asyncio.timeout(LIMIT_S):
            self._rounds.refused.append(max(await asyncio.gather(*refused)) - committed)
            self._rounds.cut.append(max(await asyncio.gather(*cut)) - committed)
        self._rounds.commit.append(committed - began)
        for connection in (*streams, *probes):
            connection.close()

    @staticmethod
    async def _refusal(connection: Connection, request: bytes) -> float:
        """Ask again and again; return when the first refusal was here."""
        while await connection.ask(request) == OK:  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(PROBE_S)
        return time.monotonic()

    async def _load(self, port: int, key: str) -> None:
        connection = await Connection.open(port)
        request, pause = chat(key, FAST, stream=False), len(self._ports) / REQUESTS_PER_S
        due = time.monotonic()
        while True:
            self._rounds.load += 1
            self._rounds.load_failed += await connection.ask(request) != OK
            due += pause
            await asyncio.sleep(max(0.0, due - time.monotonic()))


class _Floor:
    """A relay and its subscribers, programs of their own, which write down when they heard."""

    def __init__(
        self, subscribers: Sequence[asyncio.subprocess.Process], relay: asyncio.subprocess.Process
    ) -> None:
        self._subscribers = subscribers
        self._relay = relay
        self._number = 0

    @classmethod
    async def start(cls, environ: Mapping[str, str]) -> "_Floor":
        subscribers = [await _floor_program("subscriber", environ) for _ in range(PROCESSES)]
        return cls(subscribers, await _floor_program("relay", environ))

    async def round(self, sql: asyncpg.Connection) -> float:
        self._number += 1
        await sql.execute("SELECT pg_notify($1, $2)", FLOOR_CHANNEL, str(self._number))
        committed = time.monotonic()
        heard = [float(await _line(subscriber)) for subscriber in self._subscribers]
        return max(heard) - committed

    async def stop(self) -> None:
        for program in (*self._subscribers, self._relay):
            program.terminate()
            await program.wait()


async def _floor_program(role: str, environ: Mapping[str, str]) -> asyncio.subprocess.Process:
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.revocation_floor", role),
        *(environ["DATABASE_URL"], environ["REDIS_URL"], FLOOR_CHANNEL),
        stdout=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
    )
    await _line(program)
    return program


async def _line(program: asyncio.subprocess.Process) -> bytes:
    if program.stdout is None or not (line := await program.stdout.readline()):
        raise RuntimeError("a program of the floor ended early")
    return line


@contextmanager
def gateway(directory: Path) -> Iterator[tuple[list[int], Mapping[str, str]]]:
    """Run `up` with its one app process, and further ones beside it; give their ports and settings."""
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
        ready = stack.enter_context(_program(directory, "up", words, neutral_environment(os.environ) | ours))
        environ = running_environment(state)
        if environ is None:
            raise RuntimeError("the gateway has gone")
        ports = [int(json.loads(ready)["url"].rpartition(":")[2])]
        ports += [
            stack.enter_context(_further_app(directory, number, environ)) for number in range(1, PROCESSES)
        ]
        yield ports, environ


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
    with _program(directory, name, command, neutral_environment(os.environ)) as ready:
        yield json.loads(ready)["url"]


@contextmanager
def _program(directory: Path, name: str, words: Sequence[str], environ: Mapping[str, str]) -> Iterator[str]:
    """Run a program of ours that says in one line when it is ready; give that line."""
    log = directory / name
    command = (sys.executable, "-m", *words)
    with running(command, cores=CORES, environ=environ, cwd=REPOSITORY, errors=log) as child:
        yield first_line(child, log)


async def measure(ports: Sequence[int], environ: Mapping[str, str], number: int) -> Rounds:
    """Run the rounds once every process answers."""
    rounds = Rounds()
    for port in ports:
        await _until_ready(port)
    await Rig(ports, environ, rounds).run(number)
    return rounds


async def _until_ready(port: int) -> None:
    async with asyncio.timeout(READY_WITHIN_S):
        while True:
            try:
                connection = await Connection.open(port)
                status = await connection.ask(b"GET /readyz HTTP/1.1\r\nHost: bench\r\n\r\n")
                connection.close()
                if status == OK:
                    return
            except OSError:
                pass
            await asyncio.sleep(ROUND_PAUSE_S)


def main() -> int:
    """Measure and print; 1 if a request of the load failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.revocation", description=__doc__)
    parser.add_argument("--rounds", type=int, default=300, help="revocations (300)")
    number = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="nng-bench-") as directory:
        Path(directory).chmod(0o755)
        with gateway(Path(directory)) as (ports, environ):
            before = os.getloadavg()[0]
            rounds = uvloop.run(measure(ports, environ, number))
    print(file=sys.stderr)
    print(
        f"{number} revocations, {PROCESSES} processes, {len(CORES)} cores, load average before {before:.1f}"
    )
    print(f"{rounds.load} requests beside them at {REQUESTS_PER_S}/s, {rounds.load_failed} failed")
    print("\n".join(rounds.lines()))
    return 1 if rounds.load_failed else 0


if __name__ == "__main__":
    sys.exit(main())
