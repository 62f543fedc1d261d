"""Reading a body within its size and time."""

import asyncio
from typing import Any, Final

import pytest
from litestar.types import Receive

from app.gateway.body import Bodies, BodyCut
from app.gateway.call import Call
from domain.errors import BodyTooLarge, BodyTooSlow, UnsupportedEncoding
from tests.support.asgi import Inbox
from tests.support.clock import Clock
from tests.support.waiting import until

LIMIT: Final = 100
MIB: Final = 1024 * 1024


def call(*headers: tuple[bytes, bytes]) -> Call:
    return Call(method="POST", raw_path=b"/api/chat", headers=headers, peer=None, started=0.0)


def length(size: int) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % size


@pytest.fixture
async def bodies() -> Bodies:
    return Bodies(max_bytes=LIMIT, base_timeout_s=10, max_buffered_bytes=64 * MIB)


@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        ([b""], b""),
        ([b"whole"], b"whole"),
        ([b"in", b"", b" pie", b"ces"], b"in pieces"),
        ([b"x" * LIMIT], b"x" * LIMIT),
    ],
)
async def test_a_body_is_put_together(bodies: Bodies, pieces: list[bytes], body: bytes) -> None:
    assert await bodies.read(call(), Inbox(pieces)) == body


async def test_t16_a_length_beyond_the_limit_is_refused_before_anything_is_read(bodies: Bodies) -> None:
    inbox = Inbox([b"x"])

    with pytest.raises(BodyTooLarge):
        await bodies.read(call(length(LIMIT + 1)), inbox)
    assert inbox.read == 0


@pytest.mark.parametrize("headers", [(), (length(1),)])
async def test_t16_a_body_beyond_the_limit_is_refused_whatever_its_length_said(
    bodies: Bodies, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    inbox = Inbox([b"x" * LIMIT, b"x", b"never read"])

    with pytest.raises(BodyTooLarge):
        await bodies.read(call(*headers), inbox)
    assert inbox.read == 2


@pytest.mark.parametrize("encoding", [b"gzip", b"zstd", b"br", b"deflate", b"GZIP", b"identity, gzip", b"x"])
async def test_t18_a_compressed_body_is_refused_unread(bodies: Bodies, encoding: bytes) -> None:
    inbox = Inbox([b"x"])

    with pytest.raises(UnsupportedEncoding):
        await bodies.read(call((b"content-encoding", encoding)), inbox)
    assert inbox.read == 0


@pytest.mark.parametrize("encoding", [b"identity", b"Identity", b""])
async def test_a_plain_body_may_say_that_it_is_plain(bodies: Bodies, encoding: bytes) -> None:
    assert await bodies.read(call((b"content-encoding", encoding)), Inbox([b"x"])) == b"x"


async def test_a_client_that_leaves_within_its_body_is_told_nothing(bodies: Bodies) -> None:
    with pytest.raises(BodyCut):
        await bodies.read(call(), Inbox([b"half"], complete=False))


class Stuck:
    """A client that never sends what it owes."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def __call__(self) -> Any:
        self.asked.set()
        await asyncio.get_running_loop().create_future()


async def outlasts(seconds: float, *, headers: tuple[tuple[bytes, bytes], ...], max_bytes: int) -> bool:
    """Tell whether a stuck body is still waited for after so many seconds."""
    clock, stuck = Clock(), Stuck()
    bodies = Bodies(max_bytes=max_bytes, base_timeout_s=10, max_buffered_bytes=64 * MIB, now=clock)
    receive: Receive = stuck
    reading = asyncio.create_task(bodies.read(call(*headers), receive))
    await stuck.asked.wait()
    clock.at += seconds
    bodies.give_up_late()
    bodies.give_up_late()
    done, _ = await asyncio.wait([reading], timeout=0.05)
    if done:
        with pytest.raises(BodyTooSlow):
            reading.result()
        assert not reading.cancelling()
        return False
    reading.cancel()
    await asyncio.wait([reading])
    assert reading.cancelled()
    return True


@pytest.mark.parametrize(
    ("size", "seconds", "waited_for"),
    [
        (0, 9.9, True),
        (0, 10.1, False),
        (8 * MIB, 17.9, True),
        (8 * MIB, 18.1, False),
        (None, 41.9, True),
        (None, 42.1, False),
    ],
)
async def test_t16_a_body_has_ten_seconds_and_one_for_each_mebibyte(
    size: int | None, seconds: float, *, waited_for: bool
) -> None:
    headers = () if size is None else (length(size),)

    assert await outlasts(seconds, headers=headers, max_bytes=32 * MIB) is waited_for


async def test_a_body_that_arrived_is_never_late() -> None:
    clock = Clock()
    bodies = Bodies(max_bytes=LIMIT, base_timeout_s=10, max_buffered_bytes=64 * MIB, now=clock)

    assert await bodies.read(call(), Inbox([b"x"])) == b"x"
    clock.at += 1000
    bodies.give_up_late()
    await asyncio.sleep(0)


async def test_one_late_body_does_not_end_another() -> None:
    clock = Clock()
    bodies = Bodies(max_bytes=LIMIT, base_timeout_s=10, max_buffered_bytes=64 * MIB, now=clock)
    early, late = Stuck(), Stuck()
    first = asyncio.create_task(bodies.read(call(length(1)), early))
    await early.asked.wait()
    clock.at += 9
    second = asyncio.create_task(bodies.read(call(length(1)), late))
    await late.asked.wait()
    clock.at += 2

    bodies.give_up_late()
    await asyncio.wait([first], timeout=5)

    assert isinstance(first.exception(), BodyTooSlow)
    assert not second.done()
    second.cancel()
    await asyncio.wait([second])


async def test_the_sweep_finds_late_bodies_by_itself() -> None:
    clock, stuck = Clock(), Stuck()
    bodies = Bodies(max_bytes=LIMIT, base_timeout_s=0, max_buffered_bytes=64 * MIB, now=clock)
    reading = asyncio.create_task(bodies.read(call(), stuck))
    await stuck.asked.wait()
    clock.at += 1
    sweeping = asyncio.create_task(bodies.sweep())

    await until(reading.done, within_s=5)

    assert isinstance(reading.exception(), BodyTooSlow)
    sweeping.cancel()
    await asyncio.wait([sweeping])
