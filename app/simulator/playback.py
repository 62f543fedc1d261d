"""Playing an answer to the client at the model's pace, streamed or whole, and where a fault cuts it."""

import asyncio
import time
from typing import Literal, Protocol

import msgspec

from app.simulator.http import Delay, Exchange
from app.simulator.script import Script

HowItEnds = Literal["reset", "truncate", "hang_up", "stall", "error"]


class Run(msgspec.Struct, kw_only=True):
    """One inference: what is said and what it costs. Times in ns, `arrived_ns` and `loaded_ns` monotonic."""

    echo: bytes
    """The model name as the client spelt it, a JSON string literal."""
    script: Script
    prompt_tokens: int
    interval_ns: int
    arrived_ns: int
    loaded_ns: int

    def timings(self) -> tuple[int, int, int, int]:
        """Return total, load, prompt and eval durations in ns, each at least 1 (Ollama omits zeros)."""
        load = max(1, self.loaded_ns - self.arrived_ns)
        prompt = 1000 * self.prompt_tokens
        elapsed = time.monotonic_ns() - self.loaded_ns
        evaluation = self.interval_ns * len(self.script.pieces) or max(1, elapsed)
        return load + prompt + max(evaluation, elapsed), load, prompt, evaluation


class Shape(Protocol):
    """The bytes of one run in one API's dialect."""

    stream_type: bytes
    whole_type: bytes

    def record(self, index: int) -> bytes:
        """Return the streamed record of one token."""

    def ending(self) -> bytes:
        """Return all that follows the last token, terminator included; it leaves in one flush."""

    def whole(self) -> bytes:
        """Return the answer as one JSON document."""

    def failure(self, message: str) -> bytes:
        """Return what the dialect shows of an error in mid-stream."""


class Cut(msgspec.Struct, frozen=True):
    """Where a fault ends an answer: after `after` records (None: between last token and terminator).

    `partial`: half of the next record is sent first. `error`: the record that tells of the failure.
    """

    how: HowItEnds
    after: int | None = None
    partial: bool = False
    error: bytes | None = None


class Meter(Protocol):
    """Who counts the tokens that were written to the socket."""

    def emitted(self, tokens: int) -> None:
        """Count tokens."""

    def stalled(self, *, stalled: bool) -> None:
        """Note that the client stopped taking the stream, or takes it again."""


class StreamPlayback:
    """Sends one record per token, the first together with the head, then the terminator."""

    __slots__ = (
        "_cut",
        "_due",
        "_exchange",
        "_index",
        "_interval_s",
        "_loop",
        "_meter",
        "_shape",
        "_stop",
        "_timer",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        exchange: Exchange,
        *,
        shape: Shape,
        tokens: int,
        interval_s: float,
        cut: Cut | None,
        meter: Meter,
    ) -> None:
        self._loop = loop
        self._exchange = exchange
        self._shape = shape
        self._interval_s = interval_s
        self._cut = cut
        self._meter = meter
        self._index = 0
        self._stop = tokens if cut is None or cut.after is None else min(cut.after, tokens)
        self._timer = Delay(loop, exchange)
        self._due = loop.time()

    def start(self) -> None:
        """Begin to evaluate; the first token takes one interval."""
        self._next()

    def _next(self) -> None:
        # Due times follow each other without drift, but time lost to a slow reader is not caught up.
        now = self._loop.time()
        self._due = max(self._due + self._interval_s, now)
        # The terminator comes with no evaluation of its own.
        self._timer.then(self._due - now if self._index < self._stop else 0, self._turn)

    def _turn(self) -> None:
        exchange = self._exchange
        if not exchange.writable:
            self._meter.stalled(stalled=True)
            exchange.on_writable = self._resume
            return
        if self._index < self._stop:
            self._send(self._shape.record(self._index))
            self._index += 1
            self._meter.emitted(1)
            self._next()
        elif self._cut is None:
            self._finish()
        else:
            self._break(self._cut)

    def _resume(self) -> None:
        self._meter.stalled(stalled=False)
        self._turn()

    def _send(self, data: bytes) -> None:
        if self._index == 0:
            self._exchange.begin(200, self._shape.stream_type, data)
        else:
            self._exchange.push(data)

    def _finish(self) -> None:
        if self._index == 0:
            self._exchange.begin(200, self._shape.stream_type, self._shape.ending())
            self._exchange.complete()
        else:
            self._exchange.complete(self._shape.ending())

    def _break(self, cut: Cut) -> None:
        parting = cut.error or b""
        if cut.partial:
            following = self._shape.record(0)
            parting = following[: len(following) // 2]
        if parting:
            self._send(parting)
        elif self._index == 0:
            self._exchange.begin(200, self._shape.stream_type, b"")
        play_ending(self._exchange, cut)


def play_ending(exchange: Exchange, cut: Cut) -> None:
    """End a response the way the cut says; a stall leaves it open until the client goes."""
    if cut.how == "reset":
        exchange.reset()
    elif cut.how == "hang_up":
        exchange.hang_up()
    elif cut.how in {"truncate", "error"}:
        exchange.truncate()


class WholePlayback:
    """Sends the answer in one piece after all tokens have been evaluated."""

    __slots__ = ("_cut", "_duration_s", "_exchange", "_meter", "_shape", "_timer", "_tokens")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        exchange: Exchange,
        *,
        shape: Shape,
        tokens: int,
        duration_s: float,
        cut: Cut | None,
        meter: Meter,
    ) -> None:
        self._exchange = exchange
        self._shape = shape
        self._tokens = tokens
        self._duration_s = duration_s
        self._cut = cut
        self._meter = meter
        self._timer = Delay(loop, exchange)

    def start(self) -> None:
        """Begin to evaluate, which takes `duration_s` seconds; for 0 the answer leaves at once."""
        if self._duration_s <= 0:
            self._answer()
        else:
            self._timer.then(self._duration_s, self._answer)

    def _answer(self) -> None:
        cut, exchange, shape = self._cut, self._exchange, self._shape
        if cut is None:
            self._meter.emitted(self._tokens)
            exchange.whole(200, shape.whole_type, shape.whole())
            return
        if cut.how == "stall":
            return
        if cut.how == "error":
            exchange.whole(500, shape.whole_type, cut.error or b"")
            return
        body = shape.whole()
        if cut.after != 0 or cut.partial:
            body = body[: len(body) // 2]
        exchange.begin(200, shape.whole_type, body if cut.after != 0 or cut.partial else b"")
        play_ending(exchange, cut)
