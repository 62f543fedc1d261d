"""Bring one embedded server up on a port that is free, and down again."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Protocol

from app.embedded import ports
from app.embedded.errors import ServerFailed
from app.embedded.process import Command, kill, spawn, stop

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
PORT_ATTEMPTS = 5
_PROBE_INTERVAL_S = 0.01


class Server(Protocol):
    """What PostgreSQL and Valkey have in common."""

    name: str

    def initialise(self) -> None:
        """Create what a first start needs; do nothing later."""

    def command(self, port: int) -> Command:
        """Return how to start it on that loopback port."""

    def is_ready(self, child: subprocess.Popen[bytes], port: int) -> bool:
        """Return whether this child serves clients on that port."""

    def close(self) -> None:
        """Let go of what was held for it."""


@dataclass(frozen=True)
class Running:
    """A server that is up: its process and its port."""

    server: Server
    child: subprocess.Popen[bytes]
    port: int

    def stop(self, grace_s: float = STOP_TIMEOUT_S) -> None:
        """End it in order, by force after `grace_s` seconds."""
        stop(self.child, self.server.command(self.port).stop_signal, grace_s=grace_s)
        self.server.close()


def start(
    server: Server,
    *,
    output: int | IO[bytes],
    preferred_port: int | None = None,
    attach: Callable[[subprocess.Popen[bytes], Command], None] = lambda _child, _command: None,
) -> Running:
    """Initialise and start a server, and return once it serves clients. Blocks; main thread only.

    `attach` is told of each process as soon as it exists, to read its output.

    Raises
    ------
    ServerFailed
        It ended by itself or was not ready within 30 s.
    """
    server.initialise()
    for _ in range(PORT_ATTEMPTS):
        port = ports.pick(preferred_port)
        command = server.command(port)
        child = spawn(command, output=output)
        attach(child, command)
        try:
            ready = wait_until_ready(server, child, port)
        except BaseException:
            kill(child)
            raise
        if ready:
            return Running(server, child, port)
        if ports.is_free(port):  # nobody was quicker: it failed for a reason of its own
            break
    raise ServerFailed(f"{server.name} ended by itself while starting; its own words are in the log.")


def wait_until_ready(server: Server, child: subprocess.Popen[bytes], port: int) -> bool:
    """Block until the server serves clients; False if it ended instead.

    Raises
    ------
    ServerFailed
        Neither happened within 30 s.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.is_ready(child, port):
            return True
        if child.poll() is not None:
            return False
        time.sleep(_PROBE_INTERVAL_S)
    raise ServerFailed(f"{server.name} was not ready within {READY_TIMEOUT_S:.0f} s.")
