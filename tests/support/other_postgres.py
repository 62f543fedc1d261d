"""PostgreSQL releases installed on this machine, beside the embedded one."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.embedded.ports import LOOPBACK
from app.embedded.process import Account, Command, unprivileged_account
from app.embedded.server import start
from tests.support.servers import Databases

OLDEST = 15
INSTALLED = Path("/usr/lib/postgresql")
_READY_LINE = 7  # of postmaster.pid, as pg_ctl reads it


def installed(release: int) -> Path | None:
    """Return the folder of a release's programs, as Debian and Ubuntu install them, None if it is not here."""
    programs = INSTALLED / str(release) / "bin"
    return programs if (programs / "initdb").exists() else None


class _OtherPostgres:
    name = "postgres"

    def __init__(self, programs: Path, data: Path, account: Account | None) -> None:
        self._programs = programs
        self._data = data
        self._account = account

    def initialise(self) -> None:
        who = self._account
        subprocess.run(
            (self._programs / "initdb", "-D", self._data, "-U", "gateway", "-A", "trust", "-E", "UTF8", "-N"),
            check=True,
            capture_output=True,
            cwd="/",
            env={"LC_ALL": "C.UTF-8", "PATH": os.defpath},
            user=None if who is None else who.uid,
            group=None if who is None else who.gid,
            extra_groups=None if who is None else [],
        )

    def command(self, port: int) -> Command:
        options = {"port": port, "listen_addresses": LOOPBACK, "unix_socket_directories": "", "fsync": "off"}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return Command(
            argv=(str(self._programs / "postgres"), "-D", str(self._data), *words),
            env={"LC_ALL": "C.UTF-8", "PATH": os.defpath},
            account=self._account,
            parent_death_signal=signal.SIGQUIT,
            stop_signal=signal.SIGINT,
        )

    def is_ready(self, child: subprocess.Popen[bytes], port: int) -> bool:
        del child, port
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > _READY_LINE and lines[_READY_LINE].strip() == "ready"

    def close(self) -> None:
        """Hold nothing."""


@contextmanager
def running_other_postgres(programs: Path) -> Iterator[Databases]:
    """Run a server of that release that forgets everything at the end."""
    account = unprivileged_account()
    directory = Path(tempfile.mkdtemp(prefix="nng-test-"))
    if account is not None:
        os.chown(directory, account.uid, account.gid)
    try:
        with (directory / "log").open("wb") as log:
            running = start(_OtherPostgres(programs, directory / "data", account), output=log)
            try:
                yield Databases(f"postgresql://gateway:any@{LOOPBACK}:{running.port}/postgres")
            finally:
                running.stop()
    finally:
        shutil.rmtree(directory)
