"""Noticing that the client of a running exchange left. `send` alone never tells."""

import asyncio
from collections.abc import Callable
from typing import Any

from litestar.types import Receive


class ClientWatch:
    """Calls `on_gone` once when the connection closes, until it is stopped.

    A task that awaits `receive` would do the same at ten times the cost: the server's awaitable is a future
    that takes a callback. Servers that hand out plain coroutines get the task.
    """

    __slots__ = ("_on_gone", "_pending", "_receive", "_stopped")

    def __init__(self, receive: Receive, on_gone: Callable[[], None]) -> None:
        self._receive = receive
        self._on_gone = on_gone
        self._stopped = False
        self._pending: Any = None
        self._wait()

    def _wait(self) -> None:
        pending: Any = self._receive()
        if not hasattr(pending, "add_done_callback"):
            pending = asyncio.ensure_future(pending)
        self._pending = pending
        pending.add_done_callback(self._arrived)

    def _arrived(self, event: Any) -> None:
        if self._stopped or event.cancelled():
            return
        if event.exception() is None and event.result()["type"] == "http.request":
            self._wait()
            return
        self._stopped = True
        self._on_gone()

    def stop(self) -> None:
        """Stop watching: the exchange has ended."""
        self._stopped = True
        self._pending.cancel()
