"""One embedded Valkey: loopback only, password always, append-only file in one directory."""

import os
import signal
import socket
import subprocess
from pathlib import Path
from urllib.parse import quote

from app.embedded.binaries import valkey_server
from app.embedded.ports import LOOPBACK
from app.embedded.process import Account, Command

PROBE_TIMEOUT_S = 0.5
DATABASES = 16


class ValkeyServer:
    """An embedded Valkey over one data directory.

    Parameters
    ----------
    data : the data directory; created by `initialise`.
    password : asked of every client. Letters and digits only, because the configuration has no safe quoting.
    account : who runs it; None means ourselves.
    durable : False keeps nothing on disk, for tests.
    lock_fd : inherited by the server, so that a lock held through it lasts as long as the data is in use.
    """

    name = "valkey"

    def __init__(
        self,
        data: Path,
        *,
        password: str,
        account: Account | None,
        durable: bool = True,
        lock_fd: int | None = None,
    ) -> None:
        if not password.isalnum():
            raise ValueError("the password of Valkey must be letters and digits")
        self._data = data
        self._password = password
        self._account = account
        self._durable = durable
        self._lock_fd = lock_fd
        self._program = valkey_server(account)

    def initialise(self) -> None:
        """Create the data directory if there is none yet."""
        self._data.mkdir(mode=0o700, exist_ok=True)
        if self._account is not None:
            os.chown(self._data, self._account.uid, self._account.gid)

    def command(self, port: int) -> Command:
        """Return how to start the server on that loopback port."""
        settings = {
            "bind": LOOPBACK,
            "port": str(port),
            "requirepass": self._password,
            "databases": str(DATABASES),
            "daemonize": "no",
            "save": '""',
            "appendonly": "yes" if self._durable else "no",
            "appendfsync": "everysec",
            # An evicted counter or queue entry would be a limit or a job lost in silence.
            "maxmemory-policy": "noeviction",
            "enable-debug-command": "no",
            "loglevel": "warning",
        }
        text = "".join(f"{name} {value}\n" for name, value in settings.items())
        return Command(
            argv=(str(self._program), "-"),
            env={"LC_ALL": "C", "PATH": os.defpath},
            # Entered before the change of user, and Valkey names its files relative to it: the account
            # needs no right to pass through the directories above.
            cwd=self._data,
            account=self._account,
            parent_death_signal=signal.SIGTERM,
            stop_signal=signal.SIGTERM,
            stdin=text.encode(),  # not a file, not an argument: the password stays between the two processes
            keep_open=() if self._lock_fd is None else (self._lock_fd,),
        )

    def is_ready(self, child: subprocess.Popen[bytes], port: int) -> bool:
        """Return whether the server knows our password and has loaded its data."""
        if child.poll() is not None:
            return False
        try:
            with socket.create_connection((LOOPBACK, port), PROBE_TIMEOUT_S) as probe:
                probe.sendall(f"AUTH {self._password}\r\nPING\r\nQUIT\r\n".encode())
                return b"".join(iter(lambda: probe.recv(4096), b"")) == b"+OK\r\n+PONG\r\n+OK\r\n"
        except OSError:
            return False

    def url(self, port: int, database: int = 0) -> str:
        """Return the address of a logical database, password included."""
        return f"redis://:{quote(self._password, safe='')}@{LOOPBACK}:{port}/{database}"

    def close(self) -> None:
        """Nothing is held; here so that both servers are used alike."""
