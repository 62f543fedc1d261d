"""The embedded servers as their user meets them: over a state directory, by a process that may be killed."""

import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry

from app.embedded.errors import StateDirectoryUnusable
from app.embedded.postgres import PostgresServer
from app.embedded.process import is_alive, unprivileged_account
from app.embedded.server import start
from app.embedded.state_dir import locked
from app.embedded.valkey import ValkeyServer
from tests.support.waiting import wait_until

NOBODY = pwd.getpwnam("nobody").pw_uid
HERE = Path(__file__)
"""A clone in a folder that only root may enter holds nothing that another user could start."""
IS_OPEN = all(folder.stat().st_mode & stat.S_IXOTH for folder in HERE.parents)
USERS = ["ourselves", "normal-user"] if os.geteuid() == 0 and IS_OPEN else ["ourselves"]


@pytest.fixture(scope="module", params=USERS)
def home(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """Give a state directory and the words that make a holder its user."""
    directory = Path(tempfile.mkdtemp(prefix="nng-state-"))
    words: list[str] = []
    if request.param == "normal-user":
        os.chown(directory, NOBODY, NOBODY)
        words = [str(NOBODY)]
    yield SimpleNamespace(path=directory / "state", words=words)
    shutil.rmtree(directory)


def start_holder(home: SimpleNamespace) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.holder", str(home.path), *home.words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def holding(home: SimpleNamespace) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Run a holder until the block ends, unless the block has killed it."""
    with start_holder(home) as holder:
        assert holder.stdout is not None
        line = holder.stdout.readline()
        if not line:
            raise AssertionError(holder.communicate()[1])
        yield holder, json.loads(line)
        holder.communicate()


async def execute(url: str, statement: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def test_rows_and_counters_outlive_a_restart(home: SimpleNamespace) -> None:
    with holding(home) as (_, first):
        await execute(first["postgres"]["url"], "CREATE TABLE kept AS SELECT 7 AS number")
        with redis.Redis.from_url(first["valkey"]["url"]) as client:
            client.set("counter", 41)

    with holding(home) as (_, second):
        rows = await execute(second["postgres"]["url"], "SELECT number FROM kept")
        with redis.Redis.from_url(second["valkey"]["url"]) as client:
            counter = client.incr("counter")

    assert (rows, counter) == ([(7,)], 42)


def test_addresses_stay_the_same_after_a_restart(home: SimpleNamespace) -> None:
    with holding(home) as (_, first):
        pass

    with holding(home) as (_, second):
        assert first["postgres"]["url"] == second["postgres"]["url"]
        assert first["valkey"]["url"] == second["valkey"]["url"]


async def test_servers_end_with_a_killed_holder_and_start_again_with_what_was_committed(
    home: SimpleNamespace,
) -> None:
    with holding(home) as (holder, first):
        await execute(first["postgres"]["url"], "CREATE TABLE survivor AS SELECT 1 AS number")
        holder.kill()
        holder.wait()
        pids = [first["postgres"]["pid"], first["valkey"]["pid"]]
        wait_until(lambda: not any(is_alive(pid) for pid in pids), within_s=1)

    with holding(home) as (_, second):
        assert await execute(second["postgres"]["url"], "SELECT number FROM survivor") == [(1,)]


async def test_postgres_starts_after_it_was_killed_itself(home: SimpleNamespace) -> None:
    with holding(home) as (holder, first):
        os.kill(first["postgres"]["pid"], signal.SIGKILL)
        os.kill(first["valkey"]["pid"], signal.SIGKILL)
        holder.kill()
        holder.wait()

    with holding(home) as (_, second):
        assert await execute(second["postgres"]["url"], "SELECT 1") == [(1,)]


def test_a_second_holder_is_refused_with_the_directory_and_the_process(home: SimpleNamespace) -> None:
    with holding(home) as (holder, _), start_holder(home) as second:
        _, words = second.communicate()

        assert second.returncode == 1
        assert str(home.path) in words
        assert f"process {holder.pid}" in words


async def test_postgres_wants_its_password(home: SimpleNamespace) -> None:
    with holding(home) as (_, servers), pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(servers["postgres"]["url"], password="wrong")


def test_valkey_wants_its_password(home: SimpleNamespace) -> None:
    with holding(home) as (_, servers):
        port = servers["valkey"]["url"].split(":")[-1].split("/")[0]
        with (
            redis.Redis(port=int(port), retry=Retry(NoBackoff(), 0)) as client,
            pytest.raises(AuthenticationError),
        ):
            client.ping()


def test_passwords_stand_in_no_argument_and_no_readable_file(home: SimpleNamespace) -> None:
    with holding(home) as (_, servers):
        for server in servers.values():
            password = server["url"].split("@")[0].split(":")[-1]
            arguments = Path(f"/proc/{server['pid']}/cmdline").read_text()

            assert password not in arguments
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((home.path / "secrets.json").stat().st_mode) == 0o600


def test_servers_listen_on_loopback_alone(home: SimpleNamespace) -> None:
    with holding(home) as (_, servers):
        for server in servers.values():
            port = int(server["url"].split(":")[-1].split("/")[0])
            assert listening_addresses(port) == {"0100007F"}


def test_servers_never_run_as_root(home: SimpleNamespace) -> None:
    with holding(home) as (_, servers):
        for server in servers.values():
            assert Path(f"/proc/{server['pid']}").stat().st_uid != 0


def listening_addresses(port: int) -> set[str]:
    """Return the local addresses, as the kernel spells them, on which somebody listens at that port."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state = line.split()[:4]
            address, _, number = local.partition(":")
            if int(number, 16) == port and state == "0A":
                found.add(address)
    return found


Server = Callable[[Path], PostgresServer | ValkeyServer]


@pytest.mark.parametrize(
    "make",
    [
        lambda path: PostgresServer(path, password="p", account=unprivileged_account(), durable=False),
        lambda path: ValkeyServer(path, password="p", account=unprivileged_account(), durable=False),
    ],
    ids=["postgres", "valkey"],
)
def test_a_server_moves_when_its_port_is_taken(make: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupier:
        taken = occupier.getsockname()[1]
        running = start(make(tmp_path / "data"), output=subprocess.DEVNULL, preferred_port=taken)
        running.stop()

    assert running.port != taken


def test_secrets_are_not_replaced_while_data_depends_on_them(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with locked(tmp_path / "state") as state:
        state.postgres_data.mkdir()

        with pytest.raises(StateDirectoryUnusable):
            state.secrets()


def test_a_directory_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()

    with pytest.raises(StateDirectoryUnusable), locked(tmp_path):
        pass
