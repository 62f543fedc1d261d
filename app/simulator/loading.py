"""Which models are in memory: loading on first use, keep-alive, loads that die with their first requester."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from typing import Final

from app.simulator.decode import Refusal
from app.simulator.http import Exchange
from app.simulator.models import SimulatedModel
from app.simulator.wire import NS_PER_S

DEFAULT_KEEP_ALIVE_NS: Final = 300 * NS_PER_S
_FOREVER_NS: Final = 1 << 62
_UNITS_NS: Final = {
    "h": 3600 * NS_PER_S,
    "m": 60 * NS_PER_S,
    "s": NS_PER_S,
    "ms": 10**6,
    "us": 1000,
    "µs": 1000,
    "ns": 1,
}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")


def keep_alive_ns(value: object) -> int | None:
    """Return how long a model stays loaded after a request, in ns; None when the request does not say.

    Raises
    ------
    Refusal
        400 for a duration without unit or another type.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return _duration_ns(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refusal(400, f"Unsupported type: '{type(value).__name__}'")
    return _FOREVER_NS if value < 0 else int(value * NS_PER_S)


def _duration_ns(text: str) -> int:
    digits = text.removeprefix("-")
    if digits == "0":
        return 0
    parts = list(_DURATION.finditer(digits))
    if not parts or "".join(part.group() for part in parts) != digits:
        reason = "missing unit in" if digits.isdigit() else "invalid"
        raise Refusal(400, f'time: {reason} duration "{text}"')
    if text.startswith("-"):
        return _FOREVER_NS
    return int(sum(float(part.group(1)) * _UNITS_NS[part.group(2)] for part in parts))


class _Load:
    """A load under way: whose connection it hangs on, and who waits for it too."""

    def __init__(self, owner: "Loading") -> None:
        self.owner = owner
        self.waiting: list[Loading] = []
        self.timer: asyncio.TimerHandle | None = None


class Loading:
    """One request's claim to a model."""

    __slots__ = ("exchange", "model", "ready")

    def __init__(self, model: SimulatedModel, exchange: Exchange, ready: Callable[[], None]) -> None:
        self.model = model
        self.exchange = exchange
        self.ready = ready


class Runners:
    """The loaded models of one server. `load_s` is how long a first use takes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, load_s: float) -> None:
        self._loop = loop
        self.load_s = load_s
        self._expires_ns: dict[str, int] = {}
        self._keep_alive_ns: dict[str, int] = {}
        self._loads: dict[str, _Load] = {}

    def acquire(self, model: SimulatedModel, exchange: Exchange, ready: Callable[[], None]) -> None:
        """Call `ready` when the model is in memory; at once if it is, or if loading takes no time."""
        if self.is_loaded(model.name):
            ready()
            return
        if self.load_s <= 0:
            self._arrived(model.name)
            ready()
            return
        claim = Loading(model, exchange, ready)
        exchange.on_gone = lambda: self._abandon(claim)
        load = self._loads.get(model.name)
        if load is not None:
            load.waiting.append(claim)
            return
        self._begin(_Load(claim))

    def is_loaded(self, name: str) -> bool:
        """Whether the model is in memory now."""
        return self._expires_ns.get(name, 0) > time.monotonic_ns()

    def used(self, name: str, keep_alive: int | None) -> None:
        """Start the keep-alive of a model anew; a value given by a request replaces the runner's."""
        if keep_alive is not None:
            self._keep_alive_ns[name] = keep_alive
        stay = self._keep_alive_ns.get(name, DEFAULT_KEEP_ALIVE_NS)
        self._expires_ns[name] = min(time.monotonic_ns() + stay, _FOREVER_NS)

    def unload(self, name: str) -> None:
        """Drop a model from memory."""
        self._expires_ns.pop(name, None)
        self._keep_alive_ns.pop(name, None)

    def loaded(self) -> Iterator[tuple[str, int]]:
        """Yield the loaded models and the ns each has left, longest first."""
        now = time.monotonic_ns()
        left = [(name, expires - now) for name, expires in self._expires_ns.items() if expires > now]
        yield from sorted(left, key=lambda item: item[1], reverse=True)

    def _arrived(self, name: str) -> None:
        self._keep_alive_ns.pop(name, None)
        self.used(name, None)

    def _begin(self, load: _Load) -> None:
        name = load.owner.model.name
        self._loads[name] = load
        load.timer = self._loop.call_later(self.load_s, self._finish, name)

    def _finish(self, name: str) -> None:
        load = self._loads.pop(name)
        self._arrived(name)
        for claim in (load.owner, *load.waiting):
            claim.ready()

    def _abandon(self, claim: Loading) -> None:
        """Stop the load when its first requester leaves; the next in line starts it from the beginning."""
        load = self._loads.get(claim.model.name)
        if load is None:
            return
        if load.owner is not claim:
            if claim in load.waiting:
                load.waiting.remove(claim)
            return
        if load.timer is not None:
            load.timer.cancel()
        del self._loads[claim.model.name]
        if load.waiting:
            heir = _Load(load.waiting[0])
            heir.waiting = load.waiting[1:]
            self._begin(heir)
