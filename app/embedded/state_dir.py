"""The directory in which one local instance keeps everything: data, secrets, ports, journals.

It belongs to one running instance at a time. The lock is an inherited file descriptor: it lasts until the
last process that touches the data has ended, so a start right after a crash waits for the servers of the
crashed one.
"""

import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from app.embedded.errors import StateDirectoryInUse, StateDirectoryUnusable
from app.embedded.process import is_alive
from db.app_role import NAME as APP_ROLE
from db.app_role import AppRole
from domain.keys import mint_pepper

LOCK_FILE = "lock"
SECRETS_FILE = "secrets.json"
PORTS_FILE = "ports.json"
TAKE_OVER_TIMEOUT_S = 15.0
_PASSWORD_BYTES = 24
_RETRY_INTERVAL_S = 0.05


class Secrets(msgspec.Struct, frozen=True):
    """What is generated at the first start and kept: losing the pepper would void every key."""

    postgres_password: str
    valkey_password: str
    key_pepper: str
    metrics_token: str
    simulator_token: str

    @property
    def app_role(self) -> AppRole:
        """The role of app and worker. Nobody gets from its password to the one that it is made of."""
        made_of = f"{APP_ROLE} {self.postgres_password}".encode()
        return AppRole(APP_ROLE, hashlib.sha256(made_of).hexdigest())

    def __repr__(self) -> str:
        return "Secrets(***)"


@dataclass(frozen=True)
class StateDirectory:
    """A locked state directory. `lock_fd` is for the servers to inherit."""

    path: Path
    lock_fd: int = field(repr=False)

    @property
    def postgres_data(self) -> Path:
        """The data directory of PostgreSQL."""
        return self.path / "postgres"

    @property
    def valkey_data(self) -> Path:
        """The data directory of Valkey."""
        return self.path / "valkey"

    @property
    def journal(self) -> Path:
        """Where the app processes keep their usage journals."""
        return self.path / "journal"

    def secrets(self) -> Secrets:
        """Return the secrets of this directory, generated when it has none yet.

        Raises
        ------
        StateDirectoryUnusable
            They cannot be read; they are never replaced, since the data depends on them.
        """
        file = self.path / SECRETS_FILE
        if not file.exists() and not self.postgres_data.exists():
            write_private(file, msgspec.json.encode(_generate()))
        try:
            return msgspec.json.decode(file.read_bytes(), type=Secrets)
        except (OSError, msgspec.MsgspecError):
            raise StateDirectoryUnusable(
                f"{file} cannot be read; restore it, or start with another --state-dir."
            ) from None

    def ports(self) -> dict[str, int]:
        """Return the ports of the last run by process, so that addresses noted elsewhere can stay true.

        None are known at the first start or when the file is damaged, which only moves the servers.
        """
        try:
            return msgspec.json.decode((self.path / PORTS_FILE).read_bytes(), type=dict[str, int])
        except (OSError, msgspec.MsgspecError):
            return {}

    def remember(self, ports: Mapping[str, int]) -> None:
        """Keep the ports for the next start."""
        write_private(self.path / PORTS_FILE, msgspec.json.encode(ports))


@contextmanager
def locked(path: Path) -> Iterator[StateDirectory]:
    """Hold a state directory, created with mode 0700 if it does not exist.

    Raises
    ------
    StateDirectoryInUse
        Another instance holds it.
    StateDirectoryUnusable
        It cannot be created, belongs to somebody else, or is full of other things.
    """
    path = path.absolute()
    try:
        _prepare(path)
        lock_fd = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as exc:
        raise StateDirectoryUnusable(
            f"The state directory {path} cannot be used: {exc.strerror}; choose another with --state-dir."
        ) from exc
    try:
        _lock(lock_fd, path)
        yield StateDirectory(path, lock_fd)
    finally:
        os.close(lock_fd)


def write_private(file: Path, content: bytes) -> None:
    """Write a file that only we can read, whole or not at all."""
    draft = file.with_name(f"{file.name}.new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:  # noqa: PTH123 - the mode
        target.write(content)
        target.flush()
        os.fsync(target.fileno())
    draft.replace(file)


def _prepare(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.geteuid():
        raise StateDirectoryUnusable(f"The state directory {path} belongs to another user.")
    if not (path / LOCK_FILE).exists() and any(path.iterdir()):
        # Its mode is about to change, and whoever mistyped would find our files among their own.
        raise StateDirectoryUnusable(f"{path} is no state directory of ours and not empty; choose another.")
    path.chmod(0o700)


def _lock(lock_fd: int, path: Path) -> None:
    deadline = time.monotonic() + TAKE_OVER_TIMEOUT_S
    while True:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = int(os.pread(lock_fd, 32, 0) or b"0")
            if is_alive(holder) or time.monotonic() > deadline:
                raise StateDirectoryInUse(
                    f"The state directory {path} is in use by process {holder};"
                    " stop that one or choose another with --state-dir."
                ) from None
        time.sleep(_RETRY_INTERVAL_S)  # its servers are about to end: they notice their parent's death
    os.ftruncate(lock_fd, 0)
    os.pwrite(lock_fd, str(os.getpid()).encode(), 0)


def _generate() -> Secrets:
    return Secrets(
        postgres_password=secrets.token_hex(_PASSWORD_BYTES),
        valkey_password=secrets.token_hex(_PASSWORD_BYTES),
        key_pepper=mint_pepper("local"),
        metrics_token=secrets.token_urlsafe(_PASSWORD_BYTES),
        simulator_token=secrets.token_urlsafe(_PASSWORD_BYTES),
    )
