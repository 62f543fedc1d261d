"""What bodies hold together is bounded, and nobody keeps the room from the others by standing still."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from app.gateway.body import Bodies, ClientLeft
from app.gateway.call import Call
from domain.errors import BodyTooLarge, Unavailable
from tests.support.asgi import Inbox
from tests.support.clock import Clock
from tests.support.counts import count
from tests.support.waiting import until

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ROOM: Final = 100
PATIENCE_S: Final = 10.0


class Sender:
    """A client whose body arrives piece by piece, when the test says so."""

    def __init__(self, world: "World") -> None:
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self.call = Call(method="POST", raw_path=b"/api/chat", headers=(), peer=None, started=0.0)
        self.reading = asyncio.create_task(world.bodies.read(self.call, self._events.get))

    def sends(self, size: int, *, last: bool = False) -> None:
        """Let so many bytes arrive."""
        self._events.put_nowait({"type": "http.request", "body": b"x" * size, "more_body": not last})

    def leaves(self) -> None:
        """Close the connection."""
        self._events.put_nowait({"type": "http.disconnect"})

    async def outcome(self) -> int | str:
        """Return the size of the body, or the reason for which there is none."""
        try:
            return len(await asyncio.wait_for(asyncio.shield(self.reading), PATIENCE_S))
        except Unavailable as refusal:
            return refusal.reason
        finally:
            if self.reading.exception():
                self.call.let_go_of_body()


class World:
    """A process with room for 100 bytes."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.bodies = Bodies(
            max_bytes=ROOM,
            base_timeout_s=1000,
            max_buffered_bytes=ROOM,
            longest_wait_for_room_s=0.3,
            now=self.clock,
        )
        self.senders: list[Sender] = []

    async def sender(self, size: int = 0, *, last: bool = False) -> Sender:
        """Add a client of whom so many bytes have arrived."""
        expected = self.bodies.buffered_bytes + size
        sender = Sender(self)
        self.senders.append(sender)
        if size:
            sender.sends(size, last=last)
            await until(lambda: self.bodies.buffered_bytes >= expected, within_s=PATIENCE_S)
        return sender

    async def newcomer(self, size: int) -> Sender:
        """Add a client whose whole body is there at once, with room or without."""
        sender = Sender(self)
        self.senders.append(sender)
        sender.sends(size, last=True)
        return sender


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    for sender in world.senders:
        sender.reading.cancel()
    await asyncio.gather(*(sender.reading for sender in world.senders), return_exceptions=True)
    for sender in world.senders:
        sender.call.let_go_of_body()
    assert world.bodies.buffered_bytes == 0


async def test_the_largest_body_fits_an_idle_process(world: World) -> None:
    assert await (await world.newcomer(ROOM)).outcome() == ROOM


async def test_a_body_counts_until_it_is_let_go(world: World) -> None:
    sender = await world.newcomer(60)
    await sender.outcome()
    assert world.bodies.buffered_bytes == 60

    sender.call.let_go_of_body()
    sender.call.let_go_of_body()

    assert world.bodies.buffered_bytes == 0


async def test_what_has_arrived_of_a_body_counts_and_what_was_announced_does_not(world: World) -> None:
    for _ in range(5):
        await world.sender(10)

    assert world.bodies.buffered_bytes == 50


async def test_a_newcomer_waits_until_there_is_room(world: World) -> None:
    first = await world.newcomer(80)
    await first.outcome()
    second = await world.newcomer(30)
    await asyncio.sleep(0)
    assert not second.reading.done()

    first.call.let_go_of_body()

    assert await second.outcome() == 30


async def test_a_newcomer_is_refused_where_no_room_comes(world: World) -> None:
    await (await world.newcomer(80)).outcome()

    assert await (await world.newcomer(30)).outcome() == "body_room_full"


async def test_t16_a_body_that_stands_still_gives_way(world: World) -> None:
    stuck = await world.sender(80)
    world.clock.at += 2

    assert await (await world.newcomer(30)).outcome() == 30
    assert await stuck.outcome() == "body_gave_way"


async def test_the_body_that_occupied_most_for_longest_gives_way_and_no_other(world: World) -> None:
    long_ago = await world.sender(20)
    world.clock.at += 2
    large = await world.sender(60)
    small = await world.sender(5)
    world.clock.at += 2

    assert await (await world.newcomer(30)).outcome() == 30
    assert await large.outcome() == "body_gave_way"
    assert [each.reading.done() for each in (long_ago, small)] == [False, False]


async def test_a_body_that_came_a_moment_ago_need_not_give_way(world: World) -> None:
    quick = await world.sender(80)
    world.clock.at += 0.9

    assert await (await world.newcomer(30)).outcome() == "body_room_full"
    quick.sends(10, last=True)
    assert await quick.outcome() == 90


async def test_a_body_that_is_here_never_gives_way(world: World) -> None:
    await (await world.newcomer(80)).outcome()
    world.clock.at += 1000

    assert await (await world.newcomer(30)).outcome() == "body_room_full"


async def test_a_client_that_leaves_takes_its_bytes_along(world: World) -> None:
    sender = await world.sender(60)
    sender.leaves()

    with pytest.raises(ClientLeft):
        await sender.outcome()
    assert world.bodies.buffered_bytes == 0


async def test_t16_stuck_uploads_do_not_starve_others(world: World) -> None:
    for _ in range(count(20, 500)):
        await world.sender()
    for _ in range(20):
        await world.sender(5)
    for _ in range(20):
        world.clock.at += 2
        healthy = await world.newcomer(30)
        assert await healthy.outcome() == 30
        healthy.call.let_go_of_body()


async def test_a_compressed_body_counts_as_what_it_holds(world: World) -> None:
    headers = [(b"content-encoding", b"zstd")]
    call = Call(method="POST", raw_path=b"/v1/responses", headers=headers, peer=None, started=0.0)

    await world.bodies.read(call, Inbox([zstd.compress(b"x" * 90)]))
    held = world.bodies.buffered_bytes
    call.let_go_of_body()

    assert held == 90


async def test_a_route_may_take_less_than_others(world: World) -> None:
    assert world.bodies.max_text_bytes == ROOM // 4
    call = Call(method="POST", raw_path=b"/api/embed", headers=(), peer=None, started=0.0)

    with pytest.raises(BodyTooLarge, match="limit of 25 bytes"):
        await world.bodies.read(call, Inbox([b"x" * 26]), at_most=world.bodies.max_text_bytes)
    call.let_go_of_body()
