"""Loopback ports for servers that must listen somewhere."""

import socket

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Return whether nothing listens on that loopback port now."""
    with socket.socket() as probe:
        # Without it a port whose old connections are in TIME_WAIT looks taken, and every restart would move.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def pick(preferred: int | None = None) -> int:
    """Return the preferred port if it is still free, else any free one.

    Another program may take it before it is used; whoever starts a server tries again then.
    """
    if preferred is not None and is_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
