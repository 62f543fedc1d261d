"""Child processes that never outlive us, never see our Ctrl-C, and run without root where they can."""

import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1
UNPRIVILEGED_NAME = "nobody"

_prctl = ctypes.CDLL(None, use_errno=True).prctl


@dataclass(frozen=True)
class Account:
    """The user and group a child runs as."""

    uid: int
    gid: int


def unprivileged_account() -> Account | None:
    """Return the account that servers drop to when we are root, else None: they run as ourselves.

    PostgreSQL refuses to run as root and insists on a user that the machine knows by name.
    """
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam(UNPRIVILEGED_NAME)
    return Account(entry.pw_uid, entry.pw_gid)


@dataclass(frozen=True, kw_only=True)
class Command:
    """How to start one child.

    `parent_death_signal` is what the kernel sends it when we die without a word; `stop_signal` asks for an
    orderly end. `keep_open` are file descriptors the child inherits under the same numbers. Arguments,
    environment and `stdin` may hold secrets, so no repr shows them.
    """

    argv: tuple[str, ...] = field(repr=False)
    env: Mapping[str, str] = field(repr=False)
    cwd: Path = Path("/")
    account: Account | None = None
    parent_death_signal: signal.Signals = signal.SIGKILL
    stop_signal: signal.Signals = signal.SIGTERM
    stdin: bytes | None = field(default=None, repr=False)
    keep_open: tuple[int, ...] = ()


def spawn(
    command: Command,
    *,
    output: int | IO[bytes],
    errors: int | IO[bytes] = subprocess.STDOUT,
    converse: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, so that Ctrl-C in the terminal reaches us alone.

    With `converse` its standard input stays open for the caller to write to. Call it from the main thread:
    the kernel sends the parent-death signal when the spawning *thread* ends.

    Raises
    ------
    OSError
        The program cannot be executed.
    RuntimeError
        Called from another thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("children must be spawned from the main thread")
    account = command.account
    child = subprocess.Popen(  # noqa: S603 - our own programs
        command.argv,
        stdin=subprocess.PIPE if converse or command.stdin is not None else subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        env=dict(command.env),
        cwd=command.cwd,
        user=None if account is None else account.uid,
        group=None if account is None else account.gid,
        extra_groups=None if account is None else [],
        umask=0o077,
        pass_fds=command.keep_open,
        start_new_session=True,
        preexec_fn=_tie_to_parent(os.getpid(), command.parent_death_signal),  # noqa: PLW1509 - see there
    )
    if child.stdin is not None and command.stdin is not None:
        child.stdin.write(command.stdin)
        child.stdin.close()
    return child


def stop(child: subprocess.Popen[bytes], stop_signal: signal.Signals, *, grace_s: float) -> bool:
    """Ask a child to end and kill its session after `grace_s` seconds; return whether that was not needed."""
    if child.poll() is None:
        child.send_signal(stop_signal)
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        kill(child)
        return False
    return True


def kill(child: subprocess.Popen[bytes]) -> None:
    """End a child and everything it started in its session, at once."""
    if child.returncode is not None:
        return  # already collected: the number may belong to somebody else by now
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def is_alive(pid: int) -> bool:
    """Return whether a process of that number exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def children_of(pid: int) -> list[int]:
    """Return the direct children of a process, oldest first; empty once it is gone."""
    entries = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return sorted(int(entry.name) for entry in entries if _parent_of(entry) == pid)


def _parent_of(proc_entry: Path) -> int | None:
    try:
        stat = (proc_entry / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[1])


def _tie_to_parent(parent: int, death_signal: signal.Signals) -> Callable[[], None]:
    # Runs in the child between fork and exec, after the change of user (which would reset the setting).
    # It calls nothing that could take a lock another thread held at the moment of the fork.
    def tie() -> None:
        _prctl(PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != parent:  # we died in between: the signal would never come
            os._exit(1)

    return tie
