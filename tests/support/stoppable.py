"""A Valkey of a test's own that can be killed and come back where it was, with or without its memory."""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from app.embedded.process import unprivileged_account
from app.embedded.server import Running, start
from app.embedded.valkey import ValkeyServer
from tests.support.servers import PASSWORD


class StoppableValkey:
    """One server; it forgets everything when it stops."""

    def __init__(self, directory: Path) -> None:
        self._log = (directory / "log").open("wb")
        self._server = ValkeyServer(
            directory / "data", password=PASSWORD, account=unprivileged_account(), durable=False
        )
        self._running: Running | None = None
        self._port: int | None = None
        self.start()

    @property
    def url(self) -> str:
        """Where it is, also while it is not."""
        assert self._port is not None
        return self._server.url(self._port, 0)

    def start(self) -> None:
        """Start it where it was; does nothing if it runs."""
        if self._running is None:
            self._running = start(self._server, output=self._log, preferred_port=self._port)
            self._port = self._running.port

    def kill(self) -> None:
        """End it at once."""
        running, self._running = self._running, None
        if running is not None:
            running.child.kill()
            running.child.wait()

    def flush(self) -> None:
        """Take all its memory."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Keep it from answering for the length of a block; connections to it stay open and new ones are made."""
        assert self._running is not None
        child = self._running.child
        child.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            child.send_signal(signal.SIGCONT)

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Kill it for the length of a block; it comes back without its memory."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    def close(self) -> None:
        """End it for good."""
        self.kill()
        self._log.close()


@contextmanager
def stoppable_valkey() -> Iterator[StoppableValkey]:
    """Run one until the block ends."""
    directory = Path(tempfile.mkdtemp(prefix="nng-test-"))
    valkey = StoppableValkey(directory)
    try:
        yield valkey
    finally:
        valkey.close()
        shutil.rmtree(directory)
