"""A PostgreSQL and a Valkey of a test's own, to be killed and started again where they were."""

import asyncio
import shutil
import signal
from pathlib import Path
from typing import Generic, TypeVar

from app.embedded.postgres import PostgresServer
from app.embedded.process import kill, spawn, unprivileged_account
from app.embedded.server import Running, Server, start, wait_until_ready
from app.embedded.valkey import ValkeyServer
from tests.support.servers import PASSWORD

S = TypeVar("S", bound=Server)


class _OwnStore(Generic[S]):
    """A server that keeps its port over restarts."""

    def __init__(self, server: S, log: Path) -> None:
        self._server = server
        self._log = log
        self._running: Running | None = None
        self._port: int | None = None

    @property
    def port(self) -> int:
        """Where it is, also while it is gone."""
        assert self._port is not None, "it was never started"
        return self._port

    def start(self) -> None:
        """Start it where it was; blocks until it serves. Does nothing if it runs."""
        if self._running is not None:
            return
        with self._log.open("ab") as sink:
            self._running = start(self._server, output=sink, preferred_port=self._port)
        assert self._port in {None, self._running.port}, "somebody took the port meanwhile"
        self._port = self._running.port

    async def come_back(self) -> None:
        """Start it where it was and return once it serves; the event loop turns meanwhile."""
        self._server.initialise()
        with self._log.open("ab") as sink:
            child = spawn(self._server.command(self.port), output=sink)
        ready = await asyncio.to_thread(wait_until_ready, self._server, child, self.port)
        assert ready, "it ended while it started"
        self._running = Running(self._server, child, self.port)

    def _let_go(self) -> Running | None:
        running, self._running = self._running, None
        return running


class OwnPostgres(_OwnStore[PostgresServer]):
    """A PostgreSQL that keeps its data."""

    def __init__(self, directory: Path) -> None:
        own = directory / "postgres"
        own.mkdir()
        # Durable, because what was committed must survive the kill.
        server = PostgresServer(own / "data", password=PASSWORD, account=unprivileged_account(), durable=True)
        super().__init__(server, own / "log")

    @property
    def url(self) -> str:
        """The superuser's address of the database `postgres`."""
        return self._server.url(self.port, "postgres")

    def stop(self) -> None:
        """End it in order, cutting its clients; does nothing if it is gone."""
        running = self._let_go()
        if running is not None:
            running.stop()

    async def stop_immediately(self) -> None:
        """End it as `pg_ctl stop --mode immediate` does: no checkpoint, its next start recovers."""
        running = self._let_go()
        assert running is not None
        running.child.send_signal(signal.SIGQUIT)
        await asyncio.to_thread(running.child.wait)
        running.server.close()


class OwnValkey(_OwnStore[ValkeyServer]):
    """A Valkey that forgets everything when it ends, unless it is `durable`."""

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        own = directory / "valkey"
        own.mkdir()
        self._data = own / "data"
        server = ValkeyServer(self._data, password=PASSWORD, account=unprivileged_account(), durable=durable)
        super().__init__(server, own / "log")

    @property
    def url(self) -> str:
        """Its address."""
        return self._server.url(self.port)

    def kill(self) -> None:
        """End it at once (SIGKILL); does nothing if it is gone."""
        running = self._let_go()
        if running is not None:
            kill(running.child)

    def wipe(self) -> None:
        """Remove its data while it is gone."""
        assert self._running is None
        shutil.rmtree(self._data)
