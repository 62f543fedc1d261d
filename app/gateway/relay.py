"""Stage 5: copy a good answer to the client, record by record, and notice how it ended.

The status commit happens here, after `first_answer`: from then on a failure is told in-band, never by a second
attempt. Output tokens are booked before the bytes that carry them are sent.
"""

import asyncio
from typing import Final

import structlog

from app.gateway.attempts import Opened, Order, first_answer
from app.gateway.downstream import EVENT_STREAM, JSON, STREAM_HEADERS, Downstream
from app.gateway.gateway import Gateway
from domain.account import Tally
from domain.answers import usage_at_end
from domain.errors import UpstreamExhausted, UpstreamFailed
from domain.stream_reader import StreamReader
from domain.usage import UsageOutcome
from domain.values import ApiFamily

_STREAM_TYPES: Final = {ApiFamily.NATIVE: b"application/x-ndjson"}
TAIL_TIMEOUT_S: Final = 1.0
"""How long the end of the framing may take after the terminator, for the connection to be used again."""

USAGE_TAIL_BYTES: Final = 64 * 1024
"""What is kept of a body too large to hold: its last fields say what it cost."""

_log = structlog.get_logger()


class AnswerCut(Exception):  # noqa: N818 - what the client sees
    """The answer broke off where no in-band error can be told: the connection must end unfinished."""


class Relay:
    """One good answer on its way to the client."""

    def __init__(
        self, order: Order, opened: Opened, downstream: Downstream, tally: Tally, gateway: Gateway
    ) -> None:
        self._order = order
        self._opened = opened
        self._downstream = downstream
        self._tally = tally
        self._gateway = gateway
        self._backend = tally.attempted[-1]

    async def stream(self, reader: StreamReader) -> None:
        """Relay a stream until its terminator."""
        downstream, tally, answer = self._downstream, self._tally, self._opened.answer
        records = self._opened.first
        released = 0
        downstream.reader = reader
        stream_type = _STREAM_TYPES.get(self._order.spec.family, EVENT_STREAM)
        await downstream.start(200, stream_type, STREAM_HEADERS)
        while not (reader.finished or reader.failed):
            tally.released(reader.tokens - released)
            released = reader.tokens
            if records:
                await downstream.write(records)
            try:
                piece = await answer.read()
            except UpstreamFailed as failure:
                await self._broken(reader, b"", failure.kind, UsageOutcome.UPSTREAM_TRUNCATED)
                return
            records = reader.feed(piece) if piece else reader.end()
            if not piece and not reader.finished:
                tally.released(reader.tokens - released)
                await self._broken(reader, records, "no_terminator", UsageOutcome.UPSTREAM_TRUNCATED)
                return
        tally.released(reader.tokens - released)
        if reader.failed:
            await self._broken(reader, records, reader.failure, UsageOutcome.UPSTREAM_FAILED)
            return
        tally.usage = reader.usage
        tally.settle(UsageOutcome.COMPLETED)
        await downstream.finish(records)
        await self._read_tail()

    async def body(self) -> None:
        """Relay an unstreamed answer: at once if it is all here, else piece by piece."""
        downstream, tally, opened = self._downstream, self._tally, self._opened
        if downstream.started:
            # It was told to wait for events, and cannot be given anything else any more.
            self._note_break("no_stream", "", UsageOutcome.UPSTREAM_FAILED)
            raise UpstreamExhausted
        downstream.beats = False
        tally.streamed = False
        if opened.complete:
            tally.usage = opened.usage
            tally.released(opened.usage.tokens_out if opened.usage is not None else 0)
            tally.settle(UsageOutcome.COMPLETED)
            await downstream.answer(200, JSON, opened.first)
            return
        tally.relayed(len(opened.first))
        await downstream.start(200, JSON)
        await downstream.write(opened.first)
        tail = opened.first[-USAGE_TAIL_BYTES:]
        try:
            while piece := await opened.answer.read():
                tail = (tail + piece)[-USAGE_TAIL_BYTES:]
                tally.relayed(len(piece))
                await downstream.write(piece)
        except UpstreamFailed as failure:
            self._note_break(failure.kind, failure.detail, UsageOutcome.UPSTREAM_TRUNCATED)
            raise AnswerCut from failure
        tally.usage = usage_at_end(self._order.spec, tail)
        tally.settle(UsageOutcome.COMPLETED)
        await downstream.finish()

    async def _broken(self, reader: StreamReader, records: bytes, kind: str, outcome: UsageOutcome) -> None:
        """End a stream whose terminator never came: in-band where the client stands on a record boundary."""
        self._note_break(kind, reader.error_text, outcome)
        if reader.overlong:
            raise AnswerCut
        await self._downstream.finish(records + reader.parting())

    def _note_break(self, kind: str, detail: str, outcome: UsageOutcome) -> None:
        self._tally.settle(outcome)
        self._gateway.cooldown.failed_late(self._backend)
        self._gateway.request_poll()
        self._gateway.count_attempt(self._backend, "broken")
        _log.warning(
            "answer_broken",
            request_id=self._order.request_id.decode(),
            backend=self._backend,
            kind=kind,
            detail=detail,
        )

    async def _read_tail(self) -> None:
        """Read the end of the framing, so that the connection may serve the next request."""
        try:
            async with asyncio.timeout(TAIL_TIMEOUT_S):
                await self._opened.answer.read()
        except (TimeoutError, UpstreamFailed):
            return


async def relay(order: Order, downstream: Downstream, tally: Tally, gateway: Gateway) -> None:
    """Answer the client from the first candidate that can, and settle the account.

    Raises
    ------
    GatewayError
        Nothing was relayed; see `first_answer`.
    AnswerCut
        The answer broke after it began and the client can only be told by closing its connection.
    """
    tally.streamed = order.request.stream
    if order.request.stream and order.spec.family is not ApiFamily.NATIVE:
        downstream.allow_heartbeats()
    with gateway.places.ticket(order.name.display, order.candidates, tally) as ticket:
        opened = await first_answer(order, tally, gateway, ticket, downstream)
        order.forget_body()
        try:
            running = Relay(order, opened, downstream, tally, gateway)
            if opened.reader is not None:
                await running.stream(opened.reader)
            else:
                await running.body()
        finally:
            opened.answer.close()
