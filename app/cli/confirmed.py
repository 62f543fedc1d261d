"""Waiting for the processes of a gateway to confirm that they acted upon a revocation, and saying who did."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.cli.failure import FAILED

if TYPE_CHECKING:
    from pydantic import SecretStr

    from app.cli.control.port import ControlPlane
    from db.revocation_wait import Confirmation

_TIMEOUT_MS: Final = 2000
_BY_ITSELF: Final = "each process also looks into Postgres by itself, so it takes {bound:g} seconds at most"


@dataclass(frozen=True)
class Waited:
    """What came of `--wait`; `asked` False where it was not given."""

    asked: bool = False
    found: "Confirmation | None" = None

    @property
    def code(self) -> int:
        """The exit code it makes."""
        return exit_code(self.found) if self.asked else 0

    @property
    def fields(self) -> dict[str, Any]:
        """What it adds to the line of JSON."""
        return {"confirmation": self.found} if self.asked else {}

    def show(self) -> None:
        """Print it, if there is anything to print."""
        if self.asked:
            print(told(self.found))


async def wait_if_asked(control: "ControlPlane", *, waits: bool) -> Waited:
    """Wait until every process has acted upon what was changed just now; at once where nobody asked for it."""
    if not waits:
        return Waited()
    return Waited(asked=True, found=await control.confirm(since=time.monotonic()))


async def wait_for_confirmation(seq: int, *, since: float, redis_url: "SecretStr") -> "Confirmation | None":
    """Return who confirmed a number within 5 s; None where Redis is out of reach and so nobody can.

    Parameters
    ----------
    seq
        The number in the sequence of revocations.
    since
        The monotonic moment of the commit, in seconds.
    redis_url
        Where the processes report.
    """
    from redis.exceptions import RedisError

    from db.redis.connection import connect_hot
    from db.redis.revocation_channel import seen_by
    from db.revocation_wait import confirmation

    async with connect_hot(redis_url, timeout_ms=_TIMEOUT_MS) as redis:
        try:
            return await confirmation(seq, seen=lambda: seen_by(redis), since=since)
        except (RedisError, OSError):
            return None


def told(found: "Confirmation | None") -> str:
    """Return what came of the waiting, in sentences."""
    from db.revocation_wait import BOUND_S

    by_itself = _BY_ITSELF.format(bound=BOUND_S)
    if found is None:
        return f"Redis cannot be reached, so no process can confirm it; {by_itself}."
    if found.missing:
        silent = ", ".join(found.missing)
        return (
            f"Not confirmed after {found.seconds:.1f} s by {silent} ({_processes(len(found.confirmed))} did);"
            f" {by_itself}, unless it hangs."
        )
    if not found.confirmed:
        return "No app process runs, so nobody had to confirm it."
    return f"Confirmed by {_processes(len(found.confirmed))} after {found.seconds * 1000:.0f} ms."


def exit_code(found: "Confirmation | None") -> int:
    """Return 0 if everybody confirmed."""
    return FAILED if found is None or found.missing else 0


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"
