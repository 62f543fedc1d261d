"""What `bench.revocation` does to a site: the load beside the measuring, what is stopped, and one round."""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

import asyncpg
import httpx

from app.embedded.process import children_of
from bench.revocation_floor import Floor
from bench.site import FAST, SLOW, Site
from bench.tenants import Key, tenants_of
from bench.wire import OK, Connection, chat, get

REQUESTS_PER_S = 200
PROBE_S = 0.002
ROUND_PAUSE_S = 0.05
LIMIT_S = 10.0
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
        "floor": "floor: NOTIFY -> pub/sub, last process",
        "refused": "refused by the last process",
        "cut": "stream cut by the last process",
        "let_go": "backend let go of the last stream",
    }

    def __init__(self, way: Way) -> None:
        self.way = way
        self.times: dict[str, list[float]] = {name: [] for name in self.WORDS}


class Rig:
    """A site under load, seen by the one who measures; `load` counts the requests beside the measuring."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.load = 0
        self.load_failed = 0

    @asynccontextmanager
    async def loaded(self, rounds: int) -> AsyncIterator[None]:
        """Be ready for so many rounds, under load, until the block ends."""
        site = self._site
        await site.ready()
        async with AsyncExitStack() as stack:
            self._tenants = await stack.enter_async_context(tenants_of(site.environ))
            self._sql = await asyncpg.connect(site.environ["DATABASE_URL"])
            stack.push_async_callback(self._sql.close)
            self._simulator = await stack.enter_async_context(
                httpx.AsyncClient(base_url=site.slow, trust_env=False)
            )
            background, *self._keys = await self._tenants.add("revocation", keys=rounds + 1)
            self._floor = await Floor.start(site.environ, subscribers=len(site.ports))
            stack.push_async_callback(self._floor.stop)
            load = [asyncio.create_task(self._load(port, background.text)) for port in site.ports]
            try:
                yield
            finally:
                for task in load:
                    task.cancel()
                await asyncio.gather(*load, return_exceptions=True)

    @contextmanager
    def stopped(self, way: Way) -> Iterator[None]:
        """Stop (SIGSTOP) what is out of order in this way until the block ends."""
        (pid,) = (
            pid
            for pid in children_of(self._site.up)
            if STOPPED[way] in Path(f"/proc/{pid}/cmdline").read_bytes()
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
        key = self._keys.pop()
        catalogue = get("/api/tags", key.text)
        await self._simulator.delete("/_sim/requests")
        streams = [await Connection.open(port) for port in self._site.ports]
        await asyncio.gather(*(stream.begin(chat(key.text, SLOW, stream=True)) for stream in streams))
        cut = [asyncio.create_task(stream.end()) for stream in streams]
        probes = [await Connection.open(port) for port in self._site.ports]
        for probe in probes:
            await probe.ask(catalogue)
        await asyncio.sleep(ROUND_PAUSE_S)
        began = time.monotonic()
        await self._revoke(rounds.way, key)
        committed = time.monotonic()
        times["commit"].append(committed - began)
        refused = [asyncio.create_task(self._refusal(probe, catalogue)) for probe in probes]
        async with asyncio.timeout(LIMIT_S):
            times["refused"].append(max(await asyncio.gather(*refused)) - committed)
            times["cut"].append(max(await asyncio.gather(*cut)) - committed)
        times["let_go"].append(await self._let_go() - committed)
        for connection in (*streams, *probes):
            await connection.close()
        # Without news each process looks every second: the rounds must not keep step with that.
        await asyncio.sleep(random.random() if rounds.way.is_outage else ROUND_PAUSE_S)
        print(".", end="", file=sys.stderr, flush=True)

    async def _revoke(self, way: Way, key: Key) -> None:
        if way is Way.REPOSITORY:
            await self._tenants.revoke(key)
        else:
            await self._sql.execute(REVOKE, key.key_id)

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
        request, pause = chat(key, FAST, stream=False), len(self._site.ports) / REQUESTS_PER_S
        due = time.monotonic()
        try:
            while True:
                self.load += 1
                self.load_failed += await connection.ask(request) != OK
                due += pause
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        finally:
            await connection.close()
