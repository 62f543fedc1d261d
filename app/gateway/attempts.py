"""Trying candidates until one has produced something good. Nothing has reached the client yet.

A candidate's answer counts as good once its status is right and its first record, or its whole unstreamed body
up to a bound, is here and is no error. Until then the next candidate may take over; nothing is lost but time.
"""

from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from app.gateway.downstream import Downstream
from app.gateway.gateway import Gateway
from app.gateway.line import Ticket, busy
from domain.account import Tally
from domain.answers import Echo, read_whole
from domain.errors import (
    AnswerGivenUp,
    ModelForbidden,
    RejectedUpstream,
    Sent,
    UpstreamExhausted,
    UpstreamFailed,
)
from domain.model_names import CanonicalName
from domain.ollama import Verdict, VerdictKind, classify, classify_error_record
from domain.ports import UpstreamAnswer
from domain.requests import ParsedRequest
from domain.route import Candidate, rank
from domain.routes import RouteSpec
from domain.stream_reader import StreamReader
from domain.streams import stream_reader
from domain.usage import MeasuredUsage
from domain.values import Pieces

HELD_BODY_BYTES: Final = 1024 * 1024
"""An unstreamed answer, or the first record of a stream, is held back this far: failover stays possible."""
ERROR_BODY_BYTES: Final = 64 * 1024
OK: Final = 200
_COMMENT: Final = b":"
"""A line of server-sent events that starts so says nothing about the answer."""
SERVER_ERRORS_BEFORE_STOP: Final = 2
"""A request that made two different backends answer 500 is taken for poison and not sent to a third."""

_log = structlog.get_logger()


class Order(msgspec.Struct):
    """What is sent to whichever backend answers. `request` comes without its content, which stands in `body`."""

    spec: RouteSpec
    request: ParsedRequest
    name: CanonicalName
    path: bytes
    body: bytes | Pieces
    candidates: tuple[Candidate, ...]
    request_id: bytes
    traceparent: bytes | None
    let_go_of_body: Callable[[], None]

    def forget_body(self) -> None:
        """Let go of what the client said: a backend has begun to answer, so nobody else will be asked."""
        self.body = b""
        self.let_go_of_body()

    @property
    def echo(self) -> Echo | None:
        """What gives the client its own spelling of the model name back, None if the backend's is the same."""
        return Echo(self.name.forwarded, self.request.model) if self.name.needs_echo else None


class Opened:
    """A good answer with what has been read of it: whole records of a stream, or the head of a body.

    `reader` follows a stream and is None for a body; `complete` says that `first` is the whole body, whose
    measured usage is then known.
    """

    __slots__ = ("answer", "complete", "first", "reader", "usage")

    def __init__(
        self,
        answer: UpstreamAnswer,
        first: bytes,
        *,
        reader: StreamReader | None = None,
        complete: bool = False,
        usage: MeasuredUsage | None = None,
    ) -> None:
        self.answer = answer
        self.first = first
        self.reader = reader
        self.complete = complete
        self.usage = usage


class _Attempts:
    """What the failed attempts of one request had in common."""

    def __init__(self) -> None:
        self.made = 0
        self.busy = 0
        self.missing = 0
        self.server_errors = 0

    def verdict(self, verdict: Verdict) -> None:
        if verdict.kind is VerdictKind.BUSY:
            self.busy += 1
        elif verdict.kind is VerdictKind.MODEL_MISSING:
            self.missing += 1
        elif verdict.kind is VerdictKind.SERVER_ERROR:
            self.server_errors += 1

    def refusal(self) -> Exception:
        """Return what the client is told when nobody is left to try."""
        if self.made and self.missing == self.made:
            return ModelForbidden()
        if self.made == self.busy:
            return busy()
        return UpstreamExhausted()


async def first_answer(
    order: Order, tally: Tally, gateway: Gateway, ticket: Ticket | None, downstream: Downstream
) -> Opened:
    """Return the first good answer in candidate order. The caller closes it.

    With a ticket a candidate that has no place left is passed over; where none has one, the request waits.

    Raises
    ------
    RejectedUpstream
        A backend found the request itself at fault.
    ModelForbidden
        Every candidate said that it does not have the model.
    NoCandidate
        All were busy or were drained meanwhile, or the request could not wait for a place any longer.
    AnswerGivenUp
        A backend ended its answer in the middle.
    UpstreamExhausted
        Every attempt failed.
    Unavailable
        This process was told to stop while the request waited for a place.
    """
    attempts = _Attempts()
    untried = rank(order.candidates, gateway.cooldown.cooling())
    while untried := _in_service(untried, gateway):
        if ticket is None:
            candidate = untried[0]
        else:
            candidate = await _placed(untried, order, gateway, ticket, downstream)
        untried = tuple([each for each in untried if each is not candidate])
        if candidate.backend in gateway.catalogue.index.drained:
            continue
        if attempts.made:
            gateway.count_failover(tally.attempted[-1])
        attempts.made += 1
        tally.attempt(candidate)
        try:
            opened = await _attempt(candidate, order, gateway, downstream)
        except UpstreamFailed as failure:
            tally.attempt_failed()
            _failed(candidate, order, failure, gateway)
            continue
        except AnswerGivenUp as given_up:
            _given_up(candidate, order, given_up, tally, gateway)
            raise
        if isinstance(opened, Opened):
            gateway.count_attempt(candidate.backend, "answered")
            return opened
        tally.attempt_failed()
        _refused(candidate, order, opened, gateway)
        if opened.kind is VerdictKind.CLIENT_FAULT:
            if opened.late and order.request.prompt.texts > 1:
                tally.wasted(0)  # the other texts of the batch were computed beside the one that was refused
            raise RejectedUpstream(opened.status, opened.message)
        attempts.verdict(opened)
        if attempts.server_errors >= SERVER_ERRORS_BEFORE_STOP:
            break
    raise attempts.refusal()


def _in_service(untried: tuple[Candidate, ...], gateway: Gateway) -> tuple[Candidate, ...]:
    """Leave out whoever was drained since the request was let in."""
    drained = gateway.catalogue.index.drained
    return tuple([each for each in untried if each.backend not in drained]) if drained else untried


async def _placed(
    untried: tuple[Candidate, ...], order: Order, gateway: Gateway, ticket: Ticket, downstream: Downstream
) -> Candidate:
    """Return the candidate at which the ticket got a place. Who stands in line for it waits for its model too."""
    in_line = [each.backend for each in untried]
    with gateway.loads.wait(order.name.display, in_line, downstream):
        return await ticket.place(untried)


async def _attempt(
    candidate: Candidate, order: Order, gateway: Gateway, downstream: Downstream
) -> Opened | Verdict:
    upstream = gateway.upstreams[candidate.backend]
    with gateway.loads.wait(order.name.display, (candidate.backend,), downstream) as wait:
        answer = await upstream.post(
            order.path,
            order.body,
            request_id=order.request_id,
            traceparent=order.traceparent,
            keeps=wait.keeps,
        )
    opened: Opened | Verdict | None = None
    try:
        if answer.headers.get(b"content-encoding", b"identity") != b"identity":
            raise UpstreamFailed("encoded_body", Sent.HEAD_RECEIVED)
        content_type = answer.headers.get(b"content-type", b"")
        verdict = classify(answer.status, await _error_body(answer), content_type, order.spec)
        if verdict.kind is not VerdictKind.GOOD:
            opened = verdict
        elif order.request.stream and not content_type.startswith(b"application/json"):
            opened = await _open_stream(answer, order)
        else:
            opened = await _open_body(answer, order)
        return opened
    finally:
        if not isinstance(opened, Opened):
            answer.close()


async def _error_body(answer: UpstreamAnswer) -> bytes:
    """Return the head of an error's body: enough to tell the cases apart, whatever its length."""
    if answer.status == OK:
        return b""
    pieces = bytearray()
    while len(pieces) < ERROR_BODY_BYTES and (piece := await answer.read()):
        pieces += piece
    return bytes(pieces[:ERROR_BODY_BYTES])


async def _open_stream(answer: UpstreamAnswer, order: Order) -> Opened | Verdict:
    reader = stream_reader(order.spec, order.request, order.name)
    held = b""
    while True:
        piece = await answer.read()
        records = reader.feed(piece) if piece else reader.end()
        if reader.failed and not reader.tokens:
            if reader.failure == "error_record":
                return classify_error_record(reader.error_text, order.spec)
            raise UpstreamFailed(reader.failure, Sent.HEAD_RECEIVED, reader.error_text)
        held += records
        is_answer = records and not records.startswith(_COMMENT) and not reader.overlong
        if (is_answer and reader.has_begun) or reader.finished or reader.failed:
            return Opened(answer, held, reader=reader)
        if len(held) > HELD_BODY_BYTES:
            # One record of that size, such as a last line with its context or a preamble that repeats a long
            # request, is no fault.
            if is_answer or reader.overlong:
                return Opened(answer, held, reader=reader)
            raise UpstreamFailed("oversize", Sent.HEAD_RECEIVED)
        if not piece:
            raise UpstreamFailed("empty_stream", Sent.HEAD_RECEIVED)


async def _open_body(answer: UpstreamAnswer, order: Order) -> Opened:
    held = bytearray()
    while piece := await answer.read():
        held += piece
        if len(held) > HELD_BODY_BYTES:
            head = bytes(held)
            return Opened(answer, head if order.echo is None else order.echo.head(head))
    body = bytes(held)
    whole = read_whole(order.spec, body)
    if not whole.complete:
        if whole.given_up:
            raise AnswerGivenUp(whole.given_up)
        raise UpstreamFailed("incomplete_body", Sent.HEAD_RECEIVED, whole.error_text)
    if order.echo is not None:
        body = order.echo.whole(body)
    return Opened(answer, body, complete=True, usage=whole.usage)


def _failed(candidate: Candidate, order: Order, failure: UpstreamFailed, gateway: Gateway) -> None:
    gateway.cooldown.failed(candidate.backend)
    gateway.request_poll()
    gateway.count_attempt(candidate.backend, "failed")
    _log.warning(
        "attempt_failed",
        request_id=order.request_id.decode(),
        backend=candidate.backend,
        kind=failure.kind,
        sent=failure.sent.name.lower(),
        detail=failure.detail,
    )


def _given_up(
    candidate: Candidate, order: Order, given_up: AnswerGivenUp, tally: Tally, gateway: Gateway
) -> None:
    """Charge for what a model made: its backend works, and another would do no better."""
    tally.wasted(given_up.tokens)
    gateway.count_attempt(candidate.backend, "broken")
    _log.warning(
        "answer_broken",
        request_id=order.request_id.decode(),
        backend=candidate.backend,
        kind="given_up",
        detail="",
    )


def _refused(candidate: Candidate, order: Order, verdict: Verdict, gateway: Gateway) -> None:
    if verdict.kind is VerdictKind.MODEL_MISSING:
        gateway.request_poll()
    elif verdict.kind is VerdictKind.SERVER_ERROR:
        gateway.cooldown.failed(candidate.backend)
    gateway.count_attempt(candidate.backend, verdict.kind.value)
    level = _log.info if verdict.kind is VerdictKind.CLIENT_FAULT else _log.warning
    level(
        "attempt_refused",
        request_id=order.request_id.decode(),
        backend=candidate.backend,
        verdict=verdict.kind.value,
        status=verdict.upstream_status,
    )
