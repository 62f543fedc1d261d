"""Large bodies are read while the event loop goes on, one at a time, and keep their room until that has ended."""

import asyncio
import json
from collections.abc import AsyncIterator
from threading import Event
from typing import Final

import pytest

from app.gateway.aside import Aside
from app.gateway.body import LARGE_BYTES, Bodies
from app.gateway.call import Call
from domain.errors import BadRequest
from domain.lifting import Lifted
from domain.requests import ParsedRequest, parse_request
from domain.routes import inference_routes
from tests.support.asgi import Inbox
from tests.support.pictures import png

MIB: Final = 1024 * 1024
CHAT: Final = inference_routes()["/api/chat"]
PATIENCE_S: Final = 10.0


@pytest.fixture
async def bodies() -> AsyncIterator[Bodies]:
    bodies = Bodies(max_bytes=64 * MIB, base_timeout_s=10, max_buffered_bytes=64 * MIB)
    yield bodies
    bodies.close()


@pytest.fixture
async def aside() -> AsyncIterator[Aside]:
    aside = Aside()
    yield aside
    aside.close()


def chat(size: int) -> bytes:
    """Return a chat with an image of about that size."""
    image = png().rstrip("=")
    image += "A" * (size - size % 4 - len(image))
    return json.dumps({"model": "m", "messages": [{"role": "user", "images": [image]}]}).encode()


def kind(body: bytes | Lifted) -> type:
    return type(body)


async def test_only_a_large_body_is_lifted(bodies: Bodies) -> None:
    assert await bodies.parse(kind, b"x" * (LARGE_BYTES - 1)) is bytes
    assert await bodies.parse(kind, b"x" * LARGE_BYTES) is Lifted


async def test_a_large_request_is_understood_like_any_other(bodies: Bodies) -> None:
    def parsed(body: bytes | Lifted) -> ParsedRequest:
        return parse_request(CHAT, body)

    found = await bodies.parse(parsed, chat(MIB))

    assert (found.prompt, found.model) == (parsed(chat(MIB)).prompt, "m")
    with pytest.raises(BadRequest, match="goes on after"):
        await bodies.parse(parsed, chat(MIB) + b"x")


async def test_a_large_body_in_pieces_is_put_together(bodies: Bodies) -> None:
    body = chat(MIB)
    call = Call(method="POST", raw_path=b"/api/chat", headers=(), peer=None, started=0.0)

    assert await bodies.read(call, Inbox([body[:7], body[7 : MIB // 2], body[MIB // 2 :]])) == body
    call.let_go_of_body()


async def test_the_event_loop_goes_on_meanwhile(bodies: Bodies) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    await bodies.parse(kind, chat(24 * MIB))
    counting.cancel()

    assert turns > 10


async def test_large_bodies_take_turns(bodies: Bodies) -> None:
    begun, may_end = [Event(), Event()], Event()

    def parse(number: int) -> None:
        begun[number].set()
        assert may_end.wait(PATIENCE_S)

    both = [
        asyncio.create_task(bodies.parse(lambda _, number=number: parse(number), b"x" * LARGE_BYTES))  # type: ignore[misc] # the default binds the number
        for number in range(2)
    ]
    await asyncio.to_thread(begun[0].wait, PATIENCE_S)
    assert not begun[1].is_set()
    may_end.set()
    await asyncio.gather(*both)

    assert begun[1].is_set()


async def test_who_is_cancelled_hears_of_it_once_the_work_has_ended(aside: Aside) -> None:
    begun, may_end = Event(), Event()

    def work() -> None:
        begun.set()
        assert may_end.wait(PATIENCE_S)
        raise ValueError("nobody hears of this")

    working = asyncio.create_task(aside.run(work))
    await asyncio.to_thread(begun.wait, PATIENCE_S)
    for _ in range(3):
        working.cancel()
        await asyncio.wait([working], timeout=0.01)
    assert not working.done()
    may_end.set()
    await asyncio.wait([working], timeout=PATIENCE_S)

    assert working.cancelled()


async def test_what_goes_wrong_beside_the_loop_is_told(aside: Aside) -> None:
    def fail() -> None:
        raise BadRequest("no")

    with pytest.raises(BadRequest, match="no"):
        await aside.run(fail)
