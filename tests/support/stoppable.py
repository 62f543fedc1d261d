"""A Valkey of a test's own that goes away for the length of a block, or falls silent."""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from tests.support.own_stores import OwnValkey


class StoppableValkey(OwnValkey):
    """One server; it forgets everything when it stops."""

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


@contextmanager
def stoppable_valkey() -> Iterator[StoppableValkey]:
    """Run one until the block ends."""
    with tempfile.TemporaryDirectory(prefix="nng-test-") as directory:
        valkey = StoppableValkey(Path(directory))
        valkey.start()
        try:
            yield valkey
        finally:
            valkey.kill()
