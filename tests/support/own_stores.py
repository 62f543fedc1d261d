"""A PostgreSQL and a Valkey of a test's own, to be killed and started again."""

import asyncio
import shutil
import signal
from pathlib import Path
from typing import Final

from app.embedded.postgres import PostgresServer
from app.embedded.process import kill, spawn, unprivileged_account
from app.embedded.server import Running, Server, start, wait_until_ready
from app.embedded.valkey import ValkeyServer

PASSWORD: Final = "testpassword"  # nosec B105


class OwnPostgres:
    """A PostgreSQL that keeps its data and its port over restarts."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "postgres"
        self._directory.mkdir()
        self._running: Running | None = None
        self.port: int | None = None

    def start(self) -> None:
        """Start it; blocks until it serves."""
        self._running = _started(self._server(), self._directory / "log", self.port)
        self.port = self._running.port

    async def come_back(self) -> None:
        """Start it where it was and return once it serves; the event loop turns meanwhile."""
        self._running = await _returned(self._server(), self._directory / "log", self.port)

    def _server(self) -> PostgresServer:
        # Durable, because what was committed must survive the kill.
        return PostgresServer(
            self._directory / "data", password=PASSWORD, account=unprivileged_account(), durable=True
        )

    def url(self, database: str = "postgres") -> str:
        """Return the superuser's address of a database."""
        assert self._running is not None
        assert isinstance(self._running.server, PostgresServer)
        return self._running.server.url(self._running.port, database)

    def stop(self) -> None:
        """End it in order, cutting its clients; does nothing if it is gone."""
        running, self._running = self._running, None
        if running is not None:
            running.stop()

    async def stop_immediately(self) -> None:
        """End it as `pg_ctl stop --mode immediate` does: no checkpoint, its next start recovers."""
        running, self._running = self._running, None
        assert running is not None
        running.child.send_signal(signal.SIGQUIT)
        await asyncio.to_thread(running.child.wait)
        running.server.close()


class OwnValkey:
    """A Valkey that keeps its port, and its data too if it is `durable`."""

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        self._directory = directory / "valkey"
        self._directory.mkdir()
        self._durable = durable
        self._running: Running | None = None
        self.port: int | None = None

    def start(self) -> None:
        """Start it; blocks until it serves."""
        self._running = _started(self._server(), self._directory / "log", self.port)
        self.port = self._running.port

    async def come_back(self) -> None:
        """Start it where it was and return once it serves; the event loop turns meanwhile."""
        self._running = await _returned(self._server(), self._directory / "log", self.port)

    def _server(self) -> ValkeyServer:
        return ValkeyServer(
            self._directory / "data",
            password=PASSWORD,
            account=unprivileged_account(),
            durable=self._durable,
        )

    def url(self) -> str:
        """Return its address."""
        assert self._running is not None
        assert isinstance(self._running.server, ValkeyServer)
        return self._running.server.url(self._running.port)

    def kill(self) -> None:
        """End it at once (SIGKILL); does nothing if it is gone."""
        running, self._running = self._running, None
        if running is not None:
            kill(running.child)

    def wipe(self) -> None:
        """Remove its data while it is gone."""
        assert self._running is None
        shutil.rmtree(self._directory / "data")


def _started(server: Server, log: Path, port: int | None) -> Running:
    with log.open("ab") as sink:
        running = start(server, output=sink, preferred_port=port)
    assert port in {None, running.port}, "somebody took the port meanwhile"
    return running


async def _returned(server: Server, log: Path, port: int | None) -> Running:
    assert port is not None, "it was never started"
    server.initialise()
    with log.open("ab") as sink:
        child = spawn(server.command(port), output=sink)
    assert await asyncio.to_thread(wait_until_ready, server, child, port), "it ended while it started"
    return Running(server, child, port)
