"""A PostgreSQL and a Valkey of a test's own, to be killed and started again."""

from pathlib import Path
from typing import Final

from app.embedded.postgres import PostgresServer
from app.embedded.process import kill, unprivileged_account
from app.embedded.server import Running, Server, start
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
        # Durable, because what was committed must survive the kill.
        server = PostgresServer(
            self._directory / "data", password=PASSWORD, account=unprivileged_account(), durable=True
        )
        self._running = _started(server, self._directory / "log", self.port)
        self.port = self._running.port

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


class OwnValkey:
    """A Valkey that forgets everything when it ends, and keeps its port."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "valkey"
        self._directory.mkdir()
        self._running: Running | None = None
        self.port: int | None = None

    def start(self) -> None:
        """Start it, empty; blocks until it serves."""
        server = ValkeyServer(
            self._directory / "data", password=PASSWORD, account=unprivileged_account(), durable=False
        )
        self._running = _started(server, self._directory / "log", self.port)
        self.port = self._running.port

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


def _started(server: Server, log: Path, port: int | None) -> Running:
    with log.open("ab") as sink:
        running = start(server, output=sink, preferred_port=port)
    assert port in {None, running.port}, "somebody took the port meanwhile"
    return running
