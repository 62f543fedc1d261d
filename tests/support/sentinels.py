"""Two Valkeys, one the replica of the other, and a Sentinel that lets the replica take the other's place."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import redis

from app.embedded.binaries import valkey_server
from app.embedded.ports import LOOPBACK, pick
from app.embedded.process import Command, kill, spawn, unprivileged_account
from tests.support.servers import PASSWORD
from tests.support.waiting import wait_until

SERVICE: Final = "gateway-primary"
_READY_S: Final = 15.0


class Sentinels:
    """The pair, and who watches it. `url` is how the gateway is told of them."""

    def __init__(self, port: int, servers: dict[int, subprocess.Popen[bytes]]) -> None:
        self.port = port
        self.url = f"redis+sentinel://:{PASSWORD}@{LOOPBACK}:{port}/{SERVICE}/1"
        self._sentinel = redis.Redis(port=port)
        self._servers = servers

    def primary(self) -> int:
        """Return the port of the server that the Sentinel takes for the primary."""
        _, port = _ask(self._sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(port)

    def replica(self) -> int:
        """Return the port of the other one."""
        return next(port for port in self._servers if port != self.primary())

    def lose_primary(self) -> None:
        """Kill the primary, and return when the other one has taken its place."""
        heir = self.replica()
        kill(self._servers[self.primary()])
        wait_until(lambda: self.primary() == heir, within_s=_READY_S)


def server(port: int) -> redis.Redis:
    """Return a client of one of the two."""
    return redis.Redis(port=port, password=PASSWORD, db=1)


def _ask(client: redis.Redis, *words: str) -> Any:
    return client.execute_command(*words)  # type: ignore[no-untyped-call] # the library's


@contextmanager
def running_sentinels(directory: Path) -> Iterator[Sentinels]:
    """Run the three until the block ends."""
    directory.chmod(0o777)
    first, second, watcher = pick(), pick(), pick()
    pair = f'bind {LOOPBACK}\nrequirepass {PASSWORD}\nmasterauth {PASSWORD}\nsave ""\nrepl-diskless-sync-delay 0\n'
    with (
        _running(directory / "first", f"port {first}\n{pair}") as one,
        _running(directory / "second", f"port {second}\n{pair}replicaof {LOOPBACK} {first}\n") as other,
        server(second) as replica,
    ):
        # Of what there is when it starts a Sentinel hears at once, of what comes later within ten seconds.
        wait_until(lambda: _is_synchronised(replica), within_s=_READY_S)
        watching = (
            f"port {watcher}\nbind {LOOPBACK}\nsentinel monitor {SERVICE} {LOOPBACK} {first} 1\n"
            f"sentinel auth-pass {SERVICE} {PASSWORD}\nsentinel down-after-milliseconds {SERVICE} 300\n"
        )
        with _running(directory / "sentinel", watching, sentinel=True):
            wait_until(lambda: _answers(watcher), within_s=_READY_S)
            yield Sentinels(watcher, {first: one, second: other})


@contextmanager
def _running(
    directory: Path, configuration: str, *, sentinel: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    account = unprivileged_account()
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    file = directory / "server.conf"
    file.write_text(configuration)
    file.chmod(0o666)  # a Sentinel writes down what it finds out
    command = Command(
        argv=(str(valkey_server(account)), "server.conf", *(("--sentinel",) if sentinel else ())),
        env={},
        cwd=directory,
        account=account,
        parent_death_signal=signal.SIGTERM,
        stop_signal=signal.SIGTERM,
        stdin=None,
        keep_open=(),
    )
    with (directory / "log").open("wb") as log:
        child = spawn(command, output=log)
    try:
        yield child
    finally:
        kill(child)


def _is_synchronised(replica: redis.Redis) -> bool:
    with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError):
        return bool(_ask(replica, "ROLE")[3] == b"connected")
    return False


def _answers(port: int) -> bool:
    with redis.Redis(port=port) as sentinel, contextlib.suppress(redis.ConnectionError):
        return bool(sentinel.ping())
    return False
