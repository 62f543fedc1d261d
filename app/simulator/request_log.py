"""What the server has seen: a bounded log of requests, counters, and waiting for a condition on them."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

import msgspec

from app.simulator.http import Ending, Request
from app.simulator.wire import NS_PER_S

KEPT_REQUESTS: Final = 20_000


class Entry:
    """One request under observation. Counts its own tokens (`playback.Meter`)."""

    __slots__ = (
        "_log",
        "_stalled",
        "body",
        "ended_ns",
        "fault",
        "number",
        "outcome",
        "request",
        "started_wall_ns",
        "tokens",
    )

    def __init__(self, log: "RequestLog", number: int, request: Request, body: object) -> None:
        self._log = log
        self.number = number
        self.request = request
        self.body = body
        self.tokens = 0
        self._stalled = False
        self.fault: str | None = None
        self.outcome: Ending | None = None
        self.ended_ns = 0
        self.started_wall_ns = time.time_ns()

    def emitted(self, tokens: int) -> None:
        """Count tokens written to the socket."""
        self.tokens += tokens
        self._log.emitted(tokens)

    def stalled(self, *, stalled: bool) -> None:
        """Note whether the client has stopped taking the stream."""
        if stalled != self._stalled:
            self._stalled = stalled
            self._log.stalled += 1 if stalled else -1
            self._log.changed()

    def end(self, outcome: Ending) -> None:
        """Note how the request ended."""
        self.stalled(stalled=False)
        self.outcome = outcome
        self.ended_ns = time.monotonic_ns()
        self._log.ended_one()

    def described(self) -> dict[str, object]:
        """Return the entry for the control API; times in seconds, monotonic ones on this host's clock."""
        request = self.request
        started = request.arrived_ns
        request_id = request.header(b"x-request-id")
        took = (self.ended_ns - started) if self.outcome else None
        return {
            "number": self.number,
            "method": request.method,
            "path": request.path,
            "query": request.query,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers],
            "body": self.body,
            "raw_body": request.body.decode("utf-8", "replace"),
            "request_id": None if request_id is None else request_id.decode("latin-1"),
            "fault": self.fault,
            "tokens": self.tokens,
            "outcome": self.outcome or "in_flight",
            "started_s": started / NS_PER_S,
            "ended_s": None if took is None else self.ended_ns / NS_PER_S,
            "started_at": self.started_wall_ns / NS_PER_S,
            "ended_at": None if took is None else (self.started_wall_ns + took) / NS_PER_S,
        }


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """What to wait for, since the log was last cleared. None: does not matter.

    `started` and `ended` requests, `tokens`, and streams `stalled` by their client: at least.
    `in_flight` requests and open `connections`: at most.
    """

    started: int | None = None
    ended: int | None = None
    tokens: int | None = None
    stalled: int | None = None
    in_flight: int | None = None
    connections: int | None = None


class _Waiter:
    def __init__(self, condition: Condition, resume: Callable[[bool], None]) -> None:
        self.condition = condition
        self.resume = resume
        self.timer: asyncio.TimerHandle | None = None


class RequestLog:
    """Requests that matter (inference and management) since the last clear, and counters of everything."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, keep: bool) -> None:
        self._loop = loop
        self._keep = keep
        self._entries: deque[Entry] = deque(maxlen=KEPT_REQUESTS)
        self._waiters: list[_Waiter] = []
        self._number = 0
        self.by_path: Counter[str] = Counter()
        self.started = 0
        self.ended = 0
        self.in_flight = 0
        self.tokens = 0
        self.stalled = 0
        self.connections = 0
        self.accepted = 0

    def begin(self, request: Request, body: object) -> Entry:
        """Open the entry of a request."""
        self._number += 1
        entry = Entry(self, self._number, request, body)
        if self._keep:
            self._entries.append(entry)
        self.started += 1
        self.in_flight += 1
        self.changed()
        return entry

    def ended_one(self) -> None:
        """Count an ended request."""
        self.ended += 1
        self.in_flight -= 1
        self.changed()

    def emitted(self, tokens: int) -> None:
        """Count emitted tokens."""
        self.tokens += tokens
        if self._waiters:
            self.changed()

    def clear(self) -> None:
        """Forget entries and counters; what is running stays in flight."""
        self._entries.clear()
        self.by_path.clear()
        self.started = self.ended = self.tokens = self.accepted = 0

    def entries(self) -> list[dict[str, object]]:
        """Return all entries, oldest first."""
        return [entry.described() for entry in self._entries]

    def stats(self) -> dict[str, object]:
        """Return the counters."""
        return {
            "requests": dict(self.by_path),
            "started": self.started,
            "ended": self.ended,
            "in_flight": self.in_flight,
            "tokens": self.tokens,
            "stalled": self.stalled,
            "connections": {"open": self.connections, "accepted": self.accepted},
        }

    def wait(
        self, condition: Condition, timeout_s: float, resume: Callable[[bool], None]
    ) -> Callable[[], None]:
        """Call `resume(True)` once the condition holds, `resume(False)` after the timeout.

        Returns
        -------
        Callable
            Call it to give up waiting.
        """
        if self._holds(condition):
            resume(True)  # noqa: FBT003 - the caller's own verdict
            return lambda: None
        waiter = _Waiter(condition, resume)
        waiter.timer = self._loop.call_later(timeout_s, self._time_out, waiter)
        self._waiters.append(waiter)
        return lambda: self._drop(waiter)

    def changed(self) -> None:
        """Look at the conditions somebody waits for."""
        for waiter in [waiter for waiter in self._waiters if self._holds(waiter.condition)]:
            self._drop(waiter)
            waiter.resume(True)  # noqa: FBT003

    def _holds(self, wanted: Condition) -> bool:
        at_least = (
            (wanted.started, self.started),
            (wanted.ended, self.ended),
            (wanted.tokens, self.tokens),
            (wanted.stalled, self.stalled),
        )
        at_most = ((wanted.in_flight, self.in_flight), (wanted.connections, self.connections))
        return all(floor is None or now >= floor for floor, now in at_least) and all(
            ceiling is None or now <= ceiling for ceiling, now in at_most
        )

    def _time_out(self, waiter: _Waiter) -> None:
        self._drop(waiter)
        waiter.resume(False)  # noqa: FBT003

    def _drop(self, waiter: _Waiter) -> None:
        if waiter.timer is not None:
            waiter.timer.cancel()
        if waiter in self._waiters:
            self._waiters.remove(waiter)
