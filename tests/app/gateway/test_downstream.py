"""The client's side of one exchange: what is sent, counted, and known of a write that hangs."""

import asyncio
import math
from typing import Any

from app.gateway.downstream import EVENT_STREAM, HEARTBEAT, JSON, STREAM_HEADERS, Downstream
from domain.limits import LimitKind, LimitState
from domain.stream_reader import MAX_HELD_BYTES
from domain.streams import SseReader
from tests.support.asgi import Outbox


async def test_an_answer_is_a_head_and_one_body() -> None:
    outbox = Outbox()
    downstream = Downstream(outbox, request_id=b"id")

    await downstream.answer(418, JSON, b"tea", [(b"x-extra", b"1")])

    answer = outbox.answer()
    assert (answer.status, answer.body) == (418, b"tea")
    assert answer.headers == (
        (b"content-type", JSON),
        (b"x-request-id", b"id"),
        (b"server", b"neuronetz-gateway"),
        (b"content-length", b"3"),
        (b"x-extra", b"1"),
    )


async def test_head_gets_the_length_and_no_body() -> None:
    outbox = Outbox()

    await Downstream(outbox, request_id=b"id", head_only=True).answer(200, JSON, b"tea")

    assert outbox.answer().header(b"content-length") == b"3"
    assert outbox.answer().body == b""


async def test_a_stream_is_sent_piece_by_piece_and_counted() -> None:
    outbox = Outbox()
    downstream = Downstream(outbox, request_id=b"id")

    await downstream.start(200, JSON)
    await downstream.write(b"one")
    await downstream.write(b"two")
    await downstream.finish(b"three")

    assert outbox.answer().body == b"onetwothree"
    assert downstream.sent_bytes == 11
    assert (downstream.started, downstream.status) == (True, 200)


async def test_nothing_has_started_before_the_head_is_sent() -> None:
    downstream = Downstream(Outbox(), request_id=b"id")

    assert (downstream.started, downstream.status, downstream.sent_bytes) == (False, 0, 0)


async def test_t21_a_write_that_hangs_can_be_seen_and_one_that_ended_cannot() -> None:
    taken = asyncio.Event()

    async def slow(event: Any) -> None:
        del event
        await taken.wait()

    downstream = Downstream(slow, request_id=b"id")
    writing = asyncio.create_task(downstream.write(b"x"))
    await asyncio.sleep(0)

    assert downstream.writing_since > 0
    taken.set()
    await writing
    assert downstream.writing_since == 0


class SlowOutbox(Outbox):
    """Takes nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.takes = asyncio.Event()
        self.offered = 0

    async def __call__(self, event: Any) -> None:
        self.offered += 1
        await self.takes.wait()
        await super().__call__(event)


def a_reader() -> SseReader:
    return SseReader(echo=None, wants_usage=True)


async def test_a_heartbeat_before_anything_else_commits_a_stream_of_events() -> None:
    outbox = Outbox()
    downstream = Downstream(outbox, request_id=b"id")
    downstream.announce((LimitState(LimitKind.REQUESTS_PER_MINUTE, "tenant", 60, 59, 1.0),))
    downstream.allow_heartbeats()

    downstream.beat()
    assert (downstream.started, downstream.answering) == (True, False)
    await downstream.start(200, EVENT_STREAM, STREAM_HEADERS)
    await downstream.finish(b"data: 1\n\n")

    answer = outbox.answer()
    assert (answer.status, answer.body) == (200, HEARTBEAT + b"data: 1\n\n")
    assert answer.header(b"content-type") == EVENT_STREAM
    assert answer.header(b"x-ratelimit-limit-requests") == b"60"
    assert downstream.sent_bytes == len(answer.body)


async def test_what_is_sent_during_a_heartbeat_comes_after_it() -> None:
    outbox = SlowOutbox()
    downstream = Downstream(outbox, request_id=b"id")
    downstream.allow_heartbeats()
    downstream.beat()
    writing = asyncio.create_task(downstream.write(b"data: 1\n\n"))
    await asyncio.sleep(0)
    assert outbox.offered == 1

    outbox.takes.set()
    await writing
    await downstream.finish()

    assert outbox.answer().body == HEARTBEAT + b"data: 1\n\n"


async def test_t21_a_heartbeat_that_hangs_can_be_seen_and_is_not_followed_by_another() -> None:
    downstream = Downstream(SlowOutbox(), request_id=b"id")
    downstream.allow_heartbeats()
    downstream.beat()
    await asyncio.sleep(0)

    assert downstream.writing_since > 0
    assert not downstream.is_silent(downstream.quiet_since)
    downstream.close()


async def test_a_closed_connection_is_no_fault_of_a_heartbeat() -> None:
    async def closed(event: Any) -> None:
        raise RuntimeError(event)

    downstream = Downstream(closed, request_id=b"id")
    downstream.allow_heartbeats()

    downstream.beat()
    await asyncio.sleep(0)

    assert downstream.writing_since == 0
    assert downstream.is_silent(downstream.quiet_since)


async def test_only_what_may_beat_and_has_sent_nothing_since_is_silent() -> None:
    downstream = Downstream(Outbox(), request_id=b"id")
    assert not downstream.is_silent(math.inf)

    downstream.allow_heartbeats()
    assert downstream.is_silent(downstream.quiet_since)
    assert not downstream.is_silent(downstream.quiet_since - 0.001)


async def test_a_client_inside_a_record_gets_no_heartbeat() -> None:
    downstream = Downstream(Outbox(), request_id=b"id")
    downstream.allow_heartbeats()
    downstream.reader = a_reader()
    downstream.reader.feed(b"data: " + b"x" * 1000)
    assert downstream.is_silent(downstream.quiet_since)

    downstream.reader.feed(b"x" * MAX_HELD_BYTES)

    assert not downstream.is_silent(downstream.quiet_since)


async def test_nothing_beats_after_the_end() -> None:
    outbox = Outbox()
    downstream = Downstream(outbox, request_id=b"id")
    downstream.allow_heartbeats()
    await downstream.start(200, EVENT_STREAM)
    await downstream.finish()

    assert not downstream.is_silent(math.inf)
