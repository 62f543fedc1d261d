"""`python -m bench.revocation`: from the commit of a revocation to its effect in four processes under load.

Each round revokes one key by plain SQL and takes the time until every process has refused it and until every
process has cut a stream of it; and, in the same second, the floor: a bare NOTIFY, relayed to as many subscribers
through Redis by a program that does nothing else. Times count from the moment the commit was acknowledged.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import uvloop

from bench.site import (
    CORES,
    FAST,
    OK,
    PROCESSES,
    REPOSITORY,
    SLOW,
    Connection,
    chat,
    gateway,
    spread,
    until_ready,
)
from db.postgres import Database, create_engine
from domain.keys import PepperRing
from domain.tenants import Actor

REQUESTS_PER_S = 200
PROBE_S = 0.002
ROUND_PAUSE_S = 0.05
LIMIT_S = 3.0
FLOOR_CHANNEL = "bench_floor"
REVOKE = "UPDATE api_keys SET status = 'revoked' WHERE id = $1"


def get(key: str) -> bytes:
    """Return the bytes of a request for the catalogue."""
    return f"GET /api/tags HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n\r\n".encode()


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
            *(f"{name:<46}" + "".join(f"{v * 1000:8.1f}" for v in spread(of)) for name, of in rows),
        ]


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


async def measure(ports: Sequence[int], environ: Mapping[str, str], number: int) -> Rounds:
    """Run the rounds once every process answers."""
    rounds = Rounds()
    for port in ports:
        await until_ready(port)
    await Rig(ports, environ, rounds).run(number)
    return rounds


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
