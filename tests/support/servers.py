"""Real PostgreSQL and Valkey for tests: one of each per pytest process, nothing durable, loopback only."""

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import redis

from app.embedded.binaries import postgres_bin
from app.embedded.postgres import PostgresServer
from app.embedded.process import unprivileged_account
from app.embedded.server import Server, start
from app.embedded.valkey import DATABASES, ValkeyServer
from db.app_role import NAME, AppRole

PASSWORD = "testpassword"
APP_ROLE: Final = AppRole(NAME, "password-of-the-app")
"""With which everything logs in that tests run as app or worker."""

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - what is made here has a random name
_ROOM_BYTES: Final = 4 << 30
_PREFIX: Final = "nng-test-"
_HELD_AFTER_S: Final = 60.0


class Databases:
    """An embedded PostgreSQL that hands out databases.

    `admin_url` is the superuser's address of the database `postgres`.
    """

    def __init__(self, admin_url: str) -> None:
        self.admin_url = admin_url
        self._psql = postgres_bin(None) / "psql"
        self._numbers = count(1)

    def create(self, *, template: str | None = None) -> str:
        """Return the address of a new database: empty, or a copy of the one at the address `template`.

        Nobody may be connected to the template meanwhile.
        """
        name = f"test_{next(self._numbers)}"
        source = "template0" if template is None else self._name(template)
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{source}" STRATEGY file_copy')
        return self._url(name)

    def drop(self, url: str) -> None:
        """Drop a database that `create` made, cutting whoever is connected to it."""
        self.execute(f'DROP DATABASE "{self._name(url)}" WITH (FORCE)')

    def execute(self, statement: str, *, url: str | None = None) -> str:
        """Run one statement as the superuser, without an event loop; return its rows as psql prints them."""
        result = subprocess.run(
            (str(self._psql), "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement),
            env={"PGPASSWORD": PASSWORD, "PATH": os.defpath} | self._environment(url or self.admin_url),
            check=False,
            capture_output=True,
            text=True,
        )
        if result.returncode != 0:
            raise RuntimeError(result.stderr)
        return result.stdout.strip()

    @staticmethod
    def _environment(url: str) -> dict[str, str]:
        parts = urlsplit(url)
        return {
            "PGHOST": str(parts.hostname),
            "PGPORT": str(parts.port),
            "PGUSER": str(parts.username),
            "PGDATABASE": parts.path.lstrip("/"),
        }

    @staticmethod
    def _name(url: str) -> str:
        return urlsplit(url).path.lstrip("/")

    def _url(self, name: str) -> str:
        return urlunsplit(urlsplit(self.admin_url)._replace(path=f"/{name}"))


class RedisDatabases:
    """An embedded Valkey that hands out logical databases.

    Number 0 is for single tests; what lives longer claims one of its own.
    """

    def __init__(self, port: int, server: ValkeyServer) -> None:
        self._port = port
        self._server = server
        self._free = [*range(DATABASES - 1, 0, -1)]

    def url(self, number: int = 0) -> str:
        """Return the address of the logical database of that number."""
        return self._server.url(self._port, number)

    @contextmanager
    def claimed(self) -> Iterator[str]:
        """Give the address of an empty logical database that nobody else gets within the block."""
        if not self._free:
            raise RuntimeError("more logical databases claimed than the server has")
        number = self._free.pop()
        url = self.url(number)
        yield url
        with redis.Redis.from_url(url) as client:
            client.flushdb()
        self._free.append(number)


@contextmanager
def running_postgres() -> Iterator[Databases]:
    """Run a PostgreSQL that forgets everything at the end."""
    with _scratch() as directory:
        server = PostgresServer(
            directory / "data", password=PASSWORD, account=unprivileged_account(), durable=False
        )
        with _running(server, directory) as port:
            yield Databases(server.url(port, "postgres"))


@contextmanager
def running_valkey() -> Iterator[RedisDatabases]:
    """Run a Valkey that forgets everything at the end."""
    with _scratch() as directory:
        server = ValkeyServer(
            directory / "data", password=PASSWORD, account=unprivileged_account(), durable=False
        )
        with _running(server, directory) as port:
            yield RedisDatabases(port, server)


@contextmanager
def _scratch() -> Iterator[Path]:
    """Give a directory for the length of a block, in memory if there is room: copies of databases are cheap there."""
    roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM_BYTES
    if roomy:
        _remove_what_killed_runs_left()
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=_MEMORY if roomy else None) as name:
        held = os.open(name, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        try:
            yield Path(name)
        finally:
            os.close(held)


def _remove_what_killed_runs_left() -> None:
    """Free the memory that nobody holds."""
    for left in _MEMORY.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # somebody else's, held, or gone meanwhile
            if time.time() - left.stat().st_mtime < _HELD_AFTER_S:
                continue
            held = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left)
            finally:
                os.close(held)


@contextmanager
def _running(server: Server, directory: Path) -> Iterator[int]:
    with (directory / "log").open("wb") as log:
        running = start(server, output=log)
        try:
            yield running.port
        finally:
            running.stop()
