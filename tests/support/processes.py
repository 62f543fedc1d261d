"""Which processes of a running gateway serve requests."""

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Final

from app.embedded.process import children_of
from tests.support.gateway import Gateway

_ESTABLISHED: Final = "01"


def served_by(client_ports: Collection[int]) -> set[int]:
    """Return the processes at the other ends of loopback connections from these ports."""
    inodes = {f"socket:[{inode}]" for inode, remote_port in _established() if remote_port in client_ports}
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and inodes & _links(process / "fd"):
            found.add(int(process.name))
    return found


def _established() -> list[tuple[str, int]]:
    """Return the inode and the remote port of every established connection."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [(line[9], int(line[2].rpartition(":")[2], 16)) for line in lines if line[3] == _ESTABLISHED]


def _links(directory: Path) -> set[str]:
    found = set()
    try:
        for link in directory.iterdir():
            with contextlib.suppress(OSError):
                found.add(str(link.readlink()))
    except OSError:
        return set()
    return found


def app_processes(gateway: Gateway) -> list[int]:
    """Return the processes that serve, oldest first."""
    return [pid for pid in children_of(gateway.app.pid) if _holds_a_journal(pid, str(gateway.journal))]


def _holds_a_journal(pid: int, directory: str) -> bool:
    return any(link.startswith(directory) for link in _links(Path(f"/proc/{pid}/fd")))
