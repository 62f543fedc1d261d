"""The note a running `up` leaves for the other commands: how to talk to what it started."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from app.embedded.process import is_alive
from app.embedded.state_dir import write_private

RUNNING_FILE = "running.json"


class Running(msgspec.Struct, frozen=True):
    """`environment` holds the settings of its processes, secrets included; only we can read the file."""

    pid: int
    url: str
    environment: dict[str, str]

    def __repr__(self) -> str:
        return f"Running(pid={self.pid}, url={self.url!r})"


def announce(state_dir: Path, running: Running) -> None:
    """Leave the note."""
    write_private(state_dir / RUNNING_FILE, msgspec.json.encode(running))


def withdraw(state_dir: Path) -> None:
    """Take the note back."""
    (state_dir / RUNNING_FILE).unlink(missing_ok=True)


def running_environment(state_dir: Path) -> Mapping[str, str] | None:
    """Return the settings of the `up` that runs on this state directory; None if none does.

    A note left by one that was killed does not count.
    """
    try:
        note = msgspec.json.decode((state_dir / RUNNING_FILE).read_bytes(), type=Running)
    except (OSError, msgspec.MsgspecError):
        return None
    return note.environment if is_alive(note.pid) else None
