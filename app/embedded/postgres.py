"""One embedded PostgreSQL: loopback only, password always, data in one directory."""

import os
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote

from app.embedded.binaries import postgres_bin
from app.embedded.errors import ServerFailed
from app.embedded.ports import LOOPBACK
from app.embedded.process import Account, Command

SUPERUSER = "gateway"
INITDB_TIMEOUT_S = 60.0
READY_LINE = 7  # of postmaster.pid; PostgreSQL's own pg_ctl waits on the same line

# A gateway on one machine: few connections, small tables, no need to hold the memory of a server of its own.
_TUNING = {
    "shared_buffers": "32MB",
    "max_connections": "100",
    "max_wal_size": "256MB",
    "min_wal_size": "32MB",
    "huge_pages": "off",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_line_prefix": "",
    "cluster_name": "neuronetz-gateway",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresServer:
    """An embedded PostgreSQL over one data directory.

    Parameters
    ----------
    data : the data directory; created by `initialise`.
    password : of the superuser, fixed when the directory is initialised.
    account : who runs it; None means ourselves. Root must name somebody else.
    durable : False trades safety of the data for speed, for tests.
    lock_fd : inherited by the server, so that a lock held through it lasts as long as the data is in use.
    """

    name = "postgres"

    def __init__(
        self,
        data: Path,
        *,
        password: str,
        account: Account | None,
        durable: bool = True,
        lock_fd: int | None = None,
    ) -> None:
        self._data = data
        self._password = password
        self._account = account
        self._settings = _TUNING if durable else _TUNING | _NOT_DURABLE
        self._durable = durable
        self._lock_fd = lock_fd
        self._bin = postgres_bin(account)
        self._data_fd: int | None = None

    def initialise(self) -> None:
        """Create the cluster if the directory has none yet. Takes about a second the first time.

        Raises
        ------
        ServerFailed
            initdb failed; the message ends with its own words.
        """
        self._data.mkdir(mode=0o700, exist_ok=True)
        if self._account is not None:
            os.chown(self._data, self._account.uid, self._account.gid)
        if (self._data / "PG_VERSION").exists():
            # Whoever calls us holds the lock of this directory, so nobody uses it: what a killed server left
            # would only mislead the next one when the process number has a new owner meanwhile.
            (self._data / "postmaster.pid").unlink(missing_ok=True)
            return
        self._run_initdb()

    def command(self, port: int) -> Command:
        """Return how to start the server on that loopback port."""
        options = self._settings | {
            "listen_addresses": LOOPBACK,
            "port": str(port),
            "unix_socket_directories": "",
        }
        arguments = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return Command(
            argv=(str(self._bin / "postgres"), "-D", self._data_path(), *arguments),
            env={"LC_ALL": "C", "PATH": os.defpath},
            account=self._account,
            parent_death_signal=signal.SIGINT,
            # "fast": ends sessions, writes a checkpoint, exits; "immediate" leaves out the checkpoint
            stop_signal=signal.SIGINT if self._durable else signal.SIGQUIT,
            keep_open=self._inherited(),
        )

    def is_ready(self, child: subprocess.Popen[bytes], port: int) -> bool:
        """Return whether this very child accepts connections; another server on the port does not count."""
        del port
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > READY_LINE and lines[0] == str(child.pid) and lines[READY_LINE].strip() == "ready"

    def url(self, port: int, database: str) -> str:
        """Return the address of a database, password included, for asyncpg and libpq alike."""
        return f"postgresql://{SUPERUSER}:{quote(self._password, safe='')}@{LOOPBACK}:{port}/{database}"

    def close(self) -> None:
        """Let go of the data directory, after the server has ended."""
        if self._data_fd is not None:
            os.close(self._data_fd)
            self._data_fd = None

    def _data_path(self) -> str:
        # As root, the account that runs the server may not pass through the directories above (a home, a 0700
        # state directory). An inherited descriptor leads straight to the one directory it owns.
        if self._data_fd is None:
            self._data_fd = os.open(self._data, os.O_PATH | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._data_fd}"

    def _inherited(self) -> tuple[int, ...]:
        return tuple(fd for fd in (self._data_fd, self._lock_fd) if fd is not None)

    def _run_initdb(self) -> None:
        reader, writer = os.pipe()
        try:
            if self._account is not None:
                os.fchown(reader, self._account.uid, self._account.gid)
            os.write(writer, self._password.encode() + b"\n")
            os.close(writer)
            data = self._data_path()
            result = subprocess.run(  # noqa: S603 - the program of the wheel
                (
                    *(str(self._bin / "initdb"), "-D", data, "-U", SUPERUSER, "--auth=scram-sha-256"),
                    *(f"--pwfile=/proc/self/fd/{reader}", "--encoding=UTF8", "--locale-provider=builtin"),
                    *("--locale=C.UTF-8", "--data-checksums", "--no-instructions"),
                    *(() if self._durable else ("--no-sync",)),
                ),
                check=False,
                capture_output=True,
                timeout=INITDB_TIMEOUT_S,
                env={"LC_ALL": "C", "PATH": os.defpath},
                cwd="/",
                user=None if self._account is None else self._account.uid,
                group=None if self._account is None else self._account.gid,
                extra_groups=None if self._account is None else [],
                pass_fds=(*self._inherited(), reader),
            )
        finally:
            os.close(reader)
        if result.returncode != 0:
            words = result.stderr.decode(errors="replace").strip().splitlines()
            raise ServerFailed(
                f"PostgreSQL could not create its data directory {self._data}: {' '.join(words[-3:])}"
            )
