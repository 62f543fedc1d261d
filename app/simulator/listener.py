"""The listening socket, which can be closed and opened again without losing its port."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

_BACKLOG: Final = 4096


class Listener:
    """Accepts connections. Made bound but not listening: until `open` it refuses."""

    def __init__(
        self, host: str, port: int, loop: asyncio.AbstractEventLoop, protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        self._host = host
        self._port = port
        self._loop = loop
        self._protocol = protocol
        self._tasks: set[asyncio.Task[object]] = set()
        self._listening = False
        self._socket = self._bind()

    @property
    def port(self) -> int:
        """The port, also after it was chosen by the system."""
        return self._port

    def open(self) -> bool:
        """Listen; False if it does so already."""
        if self._listening:
            return False
        self._socket.listen(_BACKLOG)
        self._loop.add_reader(self._socket.fileno(), self._accept)
        self._listening = True
        return True

    def close(self) -> None:
        """Refuse connections, but keep the port: a bound socket that does not listen answers with a reset."""
        if self._listening:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = self._bind()
            self._listening = False

    def _bind(self) -> socket.socket:
        bound = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setblocking(False)  # noqa: FBT003 - the socket module's signature
        bound.bind((self._host, self._port))
        self._port = bound.getsockname()[1]
        return bound

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            accepted.setblocking(False)  # noqa: FBT003 - the socket module's signature
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task: asyncio.Task[object] = self._loop.create_task(
                self._loop.connect_accepted_socket(self._protocol, accepted)
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
