"""The gateway as operators run it: app and worker as programs of their own, real stores, simulated Ollamas."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import httpx
import msgspec
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.embedded import ports
from app.embedded.environment import neutral_environment
from app.embedded.process import children_of, is_alive
from db.postgres import Database, create_engine
from domain.keys import PepperRing, mint_pepper
from domain.tenants import Actor
from domain.values import KeyId, TenantId
from tests.support.ollama import SimulatedOllama
from tests.support.repository import ROOT
from tests.support.servers import APP_ROLE
from tests.support.waiting import until, wait_until

READY_WITHIN_S: Final = 60.0  # it takes about 3 s on an idle machine
ENDED_WITHIN_S: Final = 30.0
ACCOUNTED_WITHIN_S: Final = 15.0
METRICS_TOKEN: Final = "metrics-token-of-the-tests"  # nosec B105

_ROWS: Final = text(
    "SELECT * FROM usage_records WHERE request_id = ANY(CAST(:ids AS uuid[])) ORDER BY request_id"
)


class UsageRow(msgspec.Struct, frozen=True):
    """One row of the ledger, as Postgres has it."""

    request_id: UUID
    outcome: str
    tokens_in: int
    tokens_out: int
    estimated: bool
    backend: str | None
    attempts: int
    attempted_backends: list[str]
    model: str
    model_digest: str
    api_family: str
    route: str
    tenant_id: UUID
    key_id: UUID
    client_request_id: str | None
    started_at: datetime
    ended_at: datetime
    queue_us: int | None
    first_token_us: int | None
    total_us: int | None


class Key(msgspec.Struct, frozen=True):
    """A tenant's key, its text included."""

    text: str
    tenant: str
    tenant_id: TenantId
    key_id: KeyId

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a client that uses it."""
        return {"Authorization": f"Bearer {self.text}"}


class Program:
    """One of the gateway's programs: started, killed and started again; its log is kept in one file."""

    def __init__(self, *words: str, environ: Mapping[str, str], log: Path) -> None:
        self._words = words
        self._environ = dict(environ)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process that was started; what it started itself is not counted."""
        assert self._process is not None, "the program is not running"
        return self._process.pid

    def start(self) -> None:
        """Start it and return at once."""
        with self._log.open("ab") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._words],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=self._environ,
            )

    def kill(self) -> None:
        """End it and everything it started at once (SIGKILL), and wait until all are gone."""
        process, self._process = self._process, None
        if process is None:
            return
        family = [process.pid, *children_of(process.pid)]
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(ENDED_WITHIN_S)
        wait_until(lambda: not any(map(is_alive, family)), within_s=ENDED_WITHIN_S)

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Kill it for the length of a block."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    def ask_to_stop(self) -> None:
        """Send SIGTERM and return at once."""
        assert self._process is not None, "the program is not running"
        self._process.send_signal(signal.SIGTERM)

    async def ended(self, *, within_s: float = ENDED_WITHIN_S) -> int:
        """Return the exit code once it has ended by itself."""
        process = self._process
        assert process is not None, "the program is not running"
        await until(lambda: process.poll() is not None, within_s=within_s)
        self._process = None
        assert process.returncode is not None
        return process.returncode

    async def stop(self) -> None:
        """End it in order, if it runs."""
        if self._process is not None:
            self.ask_to_stop()
            try:
                await self.ended()
            finally:
                self.kill()

    def log(self) -> str:
        """Return its log so far."""
        return self._log.read_text(errors="replace")


class Gateway:
    """An app and a worker over given stores and backends, with the role that `migrate` makes for them.

    `settings` are further environment variables; `described` says more of a backend, by its name, as
    OLLAMA_BACKENDS would.
    """

    def __init__(
        self,
        *,
        database_url: str,
        redis_url: str,
        backends: Sequence[SimulatedOllama],
        directory: Path,
        settings: Mapping[str, str] | None = None,
        described: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        self.port = ports.pick()
        self.url = f"http://127.0.0.1:{self.port}"
        self.backends = {backend.name: backend for backend in backends}
        self.journal = directory / "journal"
        self.database_url = database_url
        self.redis_url = redis_url
        self.database = Database(create_engine(database_url, application_name="test"))
        pepper = mint_pepper("p1")
        self.peppers = PepperRing.parse(pepper)
        self._tenants = 0
        more = described or {}
        specs = [{"name": each.name, "base_url": each.url, **more.get(each.name, {})} for each in backends]
        environ = neutral_environment(os.environ) | {
            "DATABASE_URL": APP_ROLE.address(database_url),
            "REDIS_URL": redis_url,
            "OLLAMA_BACKENDS": msgspec.json.encode(specs).decode(),
            "MODEL_DISCOVERY_INTERVAL_SECONDS": "1",
            "GATEWAY_PORT": str(self.port),
            "GATEWAY_WORKER_HEALTH_PORT": "0",
            "GATEWAY_KEY_PEPPER": pepper,
            "GATEWAY_METRICS_TOKEN": METRICS_TOKEN,
            "GATEWAY_JOURNAL_DIR": str(self.journal),
            "GATEWAY_JOURNAL_BYTES": str(4 << 20),
            "GATEWAY_DRAIN_SECONDS": "2",
            "GATEWAY_EXIT_WITH_PARENT": "true",
            **(settings or {}),
        }
        self._directory = directory
        self._environ = environ
        self.app = Program("app", "serve", environ=environ, log=directory / "app.log")
        self.worker = Program("worker", environ=environ, log=directory / "worker.log")

    def neighbour(self, **settings: str) -> tuple[Program, str]:
        """Return another app over the same stores and backends, not started yet, and its address."""
        port = ports.pick()
        environ = self._environ | {"GATEWAY_PORT": str(port)} | settings
        return Program("app", "serve", environ=environ, log=self._directory / f"{port}.log"), (
            f"http://127.0.0.1:{port}"
        )

    @property
    def environ(self) -> dict[str, str]:
        """The settings of both programs."""
        return dict(self._environ)

    # life and death

    async def start(self) -> None:
        """Start both programs and return once every backend is listed and the gateway is ready."""
        self.worker.start()
        self.app.start()
        await self.ready()
        await self.knows(len(self.backends))

    async def ready(self, *, within_s: float = READY_WITHIN_S) -> None:
        """Return once `/readyz` is green."""
        await self._when(self._is_green, within_s=within_s)

    async def knows(self, backends: int, *, within_s: float = READY_WITHIN_S) -> None:
        """Return once that many backends are up in the eyes of an app process."""

        async def has_heard() -> bool:
            return (
                sum(value for name, value in (await self.metrics()).items() if "backend_up" in name)
                >= backends
            )

        await self._when(has_heard, within_s=within_s)

    async def polled_since(self, moment: float) -> None:
        """Return once an app process uses a model table that was written after this monotonic time."""

        async def is_newer() -> bool:
            return (await self.metrics())["nng_model_table_age_seconds"] < time.monotonic() - moment

        await self._when(is_newer, within_s=READY_WITHIN_S)

    async def aclose(self) -> None:
        """End everything."""
        try:
            await self.app.stop()
            await self.worker.stop()
        finally:
            await self.database.aclose()

    async def _is_green(self) -> bool:
        return await self.status("/readyz") == httpx.codes.OK

    async def _when(self, condition: Callable[[], Awaitable[bool]], *, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                while not await condition():  # noqa: ASYNC110 - another process cannot set our events
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(
                f"not within {within_s:g} s; app:\n{self.app.log()[-4000:]}\nworker:\n{self.worker.log()[-4000:]}"
            ) from None

    # callers

    def client(self, key: Key | None = None, *, url: str = "", **how: Any) -> httpx.AsyncClient:
        """Return an HTTP client that presents this key, to the neighbour at `url` if one is given.

        Enter it to have its connections closed.
        """
        return httpx.AsyncClient(
            base_url=url or self.url,
            headers=key.headers if key else None,
            trust_env=False,
            verify=False,  # noqa: S501 - plain HTTP only
            timeout=30,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            **how,
        )

    async def status(self, path: str) -> int:
        """Return the status of a keyless GET on a connection of its own, 0 if nobody listens."""
        async with self.client() as client:
            try:
                return (await client.get(path)).status_code
            except httpx.TransportError:
                return 0

    async def metrics(self, client: httpx.AsyncClient | None = None) -> dict[str, float]:
        """Return the current figures by name and labels, asked for on this client's connection if one is given."""
        if client is None:
            async with self.client() as own:
                return await self.metrics(own)
        reply = await client.get("/metrics", headers={"Authorization": f"Bearer {METRICS_TOKEN}"})
        assert reply.status_code == httpx.codes.OK
        lines = (line.rsplit(" ", 1) for line in reply.text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    # tenants

    async def tenant(self, *grants: str) -> Key:
        """Add a tenant with these grants (none: every model) and return its first key."""
        self._tenants += 1
        slug = f"t{os.getpid()}-{self._tenants}-{time.monotonic_ns()}"
        async with self.database.unit_of_work(Actor("test")) as work:
            tenant = await work.tenants.create(slug, slug, allow_all_models=not grants)
            for pattern in grants:
                await work.grants(tenant.id).allow(pattern)
            issued = await work.keys(tenant.id).create("first", peppers=self.peppers)
        return Key(issued.minted.reveal(), slug, tenant.id, issued.summary.id)

    async def another_key(self, key: Key, *, path_allowed: bool = False) -> Key:
        """Return a further key of the same tenant."""
        async with self.database.unit_of_work(Actor("test")) as work:
            issued = await work.keys(key.tenant_id).create(
                "another", peppers=self.peppers, path_allowed=path_allowed
            )
        return Key(issued.minted.reveal(), key.tenant, key.tenant_id, issued.summary.id)

    async def admin_key(self) -> str:
        """Mint an admin key."""
        async with self.database.unit_of_work(Actor("test")) as work:
            return (await work.keys(None).create("admin", peppers=self.peppers)).minted.reveal()

    async def revoke(self, key: Key) -> None:
        """Revoke a key."""
        async with self.database.unit_of_work(Actor("test")) as work:
            await work.keys(key.tenant_id).revoke(str(key.key_id))

    # the ledger

    async def row(self, reply: httpx.Response, *, within_s: float = ACCOUNTED_WITHIN_S) -> UsageRow:
        """Return the one row of the request that got this reply."""
        (row,) = await self.rows([request_id(reply)], within_s=within_s)
        return row

    async def rows(self, ids: Iterable[UUID], *, within_s: float = ACCOUNTED_WITHIN_S) -> list[UsageRow]:
        """Return the rows of these requests once all have one.

        Raises
        ------
        AssertionError
            One is missing for too long, or has two.
        """
        wanted = sorted(ids)
        found: list[UsageRow] = []

        async def all_there() -> bool:
            nonlocal found
            found = await self.rows_now(wanted)
            return len(found) >= len(wanted)

        await self._when(all_there, within_s=within_s)
        assert [row.request_id for row in found] == wanted
        return found

    async def rows_now(self, ids: Sequence[UUID]) -> list[UsageRow]:
        """Return the rows there are of these requests."""
        return await self._select(_ROWS, {"ids": list(ids)})

    async def rows_of(self, key: Key) -> list[UsageRow]:
        """Return all rows there are of a tenant."""
        statement = text("SELECT * FROM usage_records WHERE tenant_id = :id ORDER BY request_id")
        return await self._select(statement, {"id": key.tenant_id})

    async def rows_of_all(
        self, key: Key, expected: int, *, within_s: float = ACCOUNTED_WITHIN_S
    ) -> list[UsageRow]:
        """Return the rows of a tenant once there are `expected`, for requests whose ids nobody was told."""
        found: list[UsageRow] = []

        async def all_there() -> bool:
            nonlocal found
            found = await self.rows_of(key)
            return len(found) >= expected

        await self._when(all_there, within_s=within_s)
        assert len({row.request_id for row in found}) == len(found) == expected
        return found

    async def _select(self, statement: Any, values: dict[str, Any]) -> list[UsageRow]:
        try:
            async with self.database.engine.connect() as connection:
                found = (await connection.execute(statement, values)).mappings().all()
        except (OSError, SQLAlchemyError):  # it may be down on purpose: whoever waits asks again
            return []
        return [msgspec.convert(dict(row), UsageRow) for row in found]


def request_id(reply: httpx.Response) -> UUID:
    """Return the gateway's id of the request that got this reply."""
    return UUID(reply.headers["x-request-id"])
