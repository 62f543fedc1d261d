"""Misbehaviour on order: which request it hits, and what then goes over the wire."""

import asyncio
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from app.simulator.errors import BUSY_TEXT, Family, anthropic_error, error_body, openai_error
from app.simulator.framing import Chunked, Gzipped, TinyChunks, UntilClose, WrongLength
from app.simulator.http import Delay, Exchange
from app.simulator.models import canonical_name
from app.simulator.playback import Cut, Shape
from app.simulator.wire import EVENT_STREAM, JSON_UTF8, NDJSON, PLAIN_BARE, event, go_json

Kind = Literal[
    "refuse",  # the listening socket is closed for `for_ms`, or until SIGUSR1
    "hang",  # read and never answer; with `after`: stop in mid-stream
    "die_before",  # reset (or with reset=false: close) before the head
    "die_after",  # reset after `after` records
    "error_first",  # 200 whose first record is an error
    "inband_error",  # an error after `after` records
    "truncated",  # the framing ends cleanly after `after` records, no terminator
    "close_delimited",  # no framing at all; closes after `after` records, or after a complete answer
    "missing_model",  # 404 in JSON
    "busy",  # 503
    "status",  # `status` with an error text (`body`) or literal bytes (`raw_body`)
    "slow",  # `delay_ms` before the head, `chunk_delay_ms` between records
    "redirect",  # 307 to `location`
    "endless_line",  # a record that does not end, `size` bytes
    "huge_headers",  # a head of `size` bytes
    "gzip_body",  # compressed although nobody asked
    "garbage",  # not HTTP
    "tiny_chunks",  # one byte per chunk
    "wrong_length",  # a Content-Length (`size`) the body does not have
]

_ENDLESS_BYTES: Final = 64 << 20
_HUGE_HEAD_BYTES: Final = 1 << 20
_PRETENDED_LENGTH: Final = 1_000_000
_PIECE: Final = b"a" * 65536
_DEFAULT_ERROR: Final = "an error was encountered while running the model: unexpected EOF"

_CUTS: Final[dict[str, Literal["reset", "truncate", "hang_up", "stall", "error"]]] = {
    "hang": "stall",
    "die_after": "reset",
    "inband_error": "error",
    "truncated": "truncate",
}


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ordered fault.

    It hits the next `count` requests (null: all, until the orders are withdrawn) on inference routes, or on
    `path` ("*" for any), for `model` if given. Every fault may be preceded by `delay_ms`.
    """

    fault: Kind
    count: int | None = 1
    path: str | None = None
    model: str | None = None
    after: int | None = None
    partial: bool = False
    reset: bool = True
    status: int = 500
    body: str = ""
    raw_body: str | None = None
    content_type: str = ""
    location: str = "http://127.0.0.1:9/elsewhere"
    delay_ms: int = 0
    chunk_delay_ms: int | None = None
    for_ms: int | None = None
    size: int | None = None


class FaultBook:
    """The orders in force, first come first served."""

    def __init__(self) -> None:
        self._orders: list[tuple[Order, str | None]] = []
        self._left: list[int | None] = []

    def add(self, order: Order) -> None:
        """Put an order behind those in force."""
        self._orders.append((order, canonical_name(order.model) if order.model else None))
        self._left.append(order.count)

    def clear(self, *, but: str | None = None) -> None:
        """Withdraw all orders, those `but` that are for this path."""
        kept = [
            index for index, (order, _) in enumerate(self._orders) if but is not None and order.path == but
        ]
        self._orders = [self._orders[index] for index in kept]
        self._left = [self._left[index] for index in kept]

    def take(self, path: str, *, inference: bool, model: str = "") -> Order | None:
        """Return the order that hits this request, None if none does."""
        if not self._orders:
            return None
        for index, (order, name) in enumerate(self._orders):
            hit = inference if order.path is None else order.path in {"*", path}
            if not hit or (name is not None and name != canonical_name(model)):
                continue
            left = self._left[index]
            if left is not None:
                self._left[index] = left - 1
                if left <= 1:
                    del self._orders[index], self._left[index]
            return order
        return None


def framing_of(order: Order) -> Chunked | None:
    """Return the body framing the order asks for, None for the usual one."""
    if order.fault == "gzip_body":
        return Gzipped()
    if order.fault == "tiny_chunks":
        return TinyChunks()
    if order.fault == "close_delimited":
        return UntilClose()
    if order.fault == "wrong_length":
        return WrongLength(_PRETENDED_LENGTH if order.size is None else order.size)
    return None


def cut_of(order: Order, shape: Shape, *, family: Family, stream: bool) -> Cut | None:
    """Return where and how the order cuts an answer, None if it does not."""
    how = _CUTS.get(order.fault)
    if order.fault == "close_delimited" and order.after is not None:
        how = "hang_up"
    if how is None:
        return None
    error = None
    if how == "error":
        message = order.body or _DEFAULT_ERROR
        error = shape.failure(message) if stream else error_body(family, 500, message)[1]
        if order.raw_body is not None:
            error = order.raw_body.encode()
    return Cut(how=how, after=order.after, partial=order.partial, error=error)


def after_delay(
    order: Order, exchange: Exchange, loop: asyncio.AbstractEventLoop, call: Callable[[], None]
) -> None:
    """Call once the delay of the order has passed, unless the client goes first."""
    if order.delay_ms > 0:
        Delay(loop, exchange).then(order.delay_ms / 1000, call)
    else:
        call()


def misbehave(
    order: Order, exchange: Exchange, *, family: Family, model: str, loop: asyncio.AbstractEventLoop
) -> bool:
    """Answer in place of the model where the order leaves nothing for the model to do.

    Returns
    -------
    bool
        False when the model shall answer after all (the order bends only the way it does).
    """
    if order.fault == "hang" and order.after is None:
        return True
    if _answers_with_status(order, exchange, family, model):
        return True
    if order.fault == "die_before":
        (exchange.reset if order.reset else exchange.hang_up)()
    elif order.fault == "garbage":
        exchange.raw(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
        exchange.hang_up()
    elif order.fault == "endless_line":
        exchange.begin(200, NDJSON if family == "native" else EVENT_STREAM, b'data: {"endless":"')
        _pour(exchange, Delay(loop, exchange), order.size or _ENDLESS_BYTES)
    else:
        return False
    return True


def _answers_with_status(order: Order, exchange: Exchange, family: Family, model: str) -> bool:
    if order.fault == "missing_model":
        _refuse(order, exchange, family, 404, f"model '{model}' not found")
    elif order.fault == "busy":
        _refuse(order, exchange, family, 503, BUSY_TEXT)
    elif order.fault == "status":
        _refuse(order, exchange, family, order.status, _DEFAULT_ERROR)
    elif order.fault == "redirect":
        exchange.whole(307, PLAIN_BARE, b"", b"Location: %b\r\n" % order.location.encode())
    elif order.fault == "huge_headers":
        filler = b"X-Filler: %b\r\n" % (b"a" * (order.size or _HUGE_HEAD_BYTES))
        exchange.whole(200, JSON_UTF8, b"{}", filler)
    elif order.fault == "error_first":
        _error_first(order, exchange, family)
    else:
        return False
    return True


def _refuse(order: Order, exchange: Exchange, family: Family, status: int, text: str) -> None:
    content_type, body = error_body(family, status, order.body or text)
    if order.raw_body is not None:
        body = order.raw_body.encode()
    exchange.whole(status, order.content_type.encode() or content_type, body)


def _error_first(order: Order, exchange: Exchange, family: Family) -> None:
    message = order.body or _DEFAULT_ERROR
    if family == "native":
        content_type, record = NDJSON, go_json({"error": message}) + b"\n"
    elif family == "anthropic":
        content_type, record = EVENT_STREAM, event("error", go_json(anthropic_error(500, message)))
    elif family == "responses":
        failed = {"response": {"status": "failed", "error": {"code": "server_error", "message": message}}}
        record = event(
            "response.failed", go_json({**failed, "sequence_number": 0, "type": "response.failed"})
        )
        content_type = EVENT_STREAM
    else:
        content_type, record = EVENT_STREAM, b"data: %b\n\n" % openai_error(500, message)
    exchange.begin(200, content_type, record if order.raw_body is None else order.raw_body.encode())
    exchange.complete()


def _pour(exchange: Exchange, timer: Delay, left: int) -> None:
    """Send filler as fast as the client takes it."""
    if not exchange.open:
        return
    if left <= 0:
        exchange.hang_up()
    elif exchange.writable:
        exchange.push(_PIECE[:left])
        timer.then(0, _pour, exchange, timer, left - len(_PIECE))
    else:
        exchange.on_writable = lambda: _pour(exchange, timer, left)
