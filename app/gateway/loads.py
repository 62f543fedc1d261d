"""Requests that wait for a backend's first byte, and those kept open after their client has left.

Ollama gives up loading a model when the request that began it goes away, and begins anew for the next one that waits.
So such a request is closed only once nobody else of this process waits for the same, or its own first byte is here.
"""

import asyncio
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from app.gateway.downstream import Downstream

_Place = tuple[str, str]
"""A backend and a model."""


class Loads:
    """The waits of this process."""

    def __init__(self) -> None:
        self._loads: dict[_Place, _Load] = {}

    def wait(self, model: str, backends: Iterable[str], client: Downstream) -> "Wait":
        """Return what a client's request waits in: for one backend's first byte, or in line for any of several."""
        return Wait(self, [(backend, model) for backend in backends], client)

    def enter(self, place: _Place) -> "_Load":
        """Count one more that waits."""
        load = self._loads.get(place) or self._loads.setdefault(place, _Load())
        load.waiting += 1
        return load

    def leave(self, place: _Place) -> None:
        """Count one less, who may be back before the loop's next turn: at the end of the line an attempt begins."""
        load = self._loads[place]
        load.waiting -= 1
        if load.waiting:
            return
        if load.kept:
            asyncio.get_running_loop().call_soon(self._close_unless_waited_for, place)
        else:
            del self._loads[place]

    def _close_unless_waited_for(self, place: _Place) -> None:
        load = self._loads.get(place)
        if load is None or load.waiting:
            return
        del self._loads[place]
        for close in load.kept:
            close()


class _Load:
    """How many requests wait for one backend and model, and how to close those that are kept for their sake."""

    __slots__ = ("kept", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self.kept: list[Callable[[], None]] = []


class Wait:
    """One request's wait, for the length of a `with` block."""

    __slots__ = ("_client", "_entered", "_loads", "_places")

    def __init__(self, loads: Loads, places: list[_Place], client: Downstream) -> None:
        self._loads = loads
        self._places = places
        self._client = client
        self._entered: list[_Load] = []

    def __enter__(self) -> Self:
        self._entered = [self._loads.enter(place) for place in self._places]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for place in self._places:
            self._loads.leave(place)

    def keeps(self, close: Callable[[], None]) -> bool:
        """Tell, of a wait that is cancelled, whether its request stays open; `close` ends it then.

        The first byte and the deadline for it end it too; `close` may be called all the same.
        """
        shared = [load for load in self._entered if load.waiting > 1]
        if not self._client.gone or not shared:
            return False
        for load in shared:
            load.kept.append(close)
        return True
