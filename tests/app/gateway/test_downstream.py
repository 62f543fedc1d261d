"""The client's side of one exchange: what is sent, counted, and known of a write that hangs."""

import asyncio
from typing import Any

from app.gateway.downstream import JSON, Downstream
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
