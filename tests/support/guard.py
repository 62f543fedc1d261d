"""No test leaves the machine."""

import ipaddress
import sys


class OutsideConnection(RuntimeError):  # noqa: N818 - reads as what happened
    """A test tried to leave the machine."""


def _only_loopback(event: str, args: tuple[object, ...]) -> None:
    if event != "socket.connect":
        return
    address = args[1]
    if isinstance(address, tuple) and not _is_local(str(address[0])):
        raise OutsideConnection(f"tests talk to loopback only, not to {address[0]}")


def _is_local(host: str) -> bool:
    if host in {"", "localhost"}:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def keep_inside() -> None:
    """Refuse, for the rest of this process, every connection to another machine."""
    sys.addaudithook(_only_loopback)
