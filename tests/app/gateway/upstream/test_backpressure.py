"""What the reader does not take stays with the backend."""

from app.gateway.upstream.protocol import PAUSE_READING_ABOVE_BYTES
from tests.app.gateway.upstream.scripted import (
    OK,
    Peer,
    client_of,
    finish,
    post,
    read_all,
    scripted_backend,
    turns,
)

MIB = 1024 * 1024
FLOOD = 64 * MIB
KERNEL_BUFFERS = 12 * MIB  # the largest send and receive buffers Linux grows to, with some room
ONE_RECEIVE = 256 * 1024
SETTLED_TURNS = 50


async def _stuck(peer: Peer) -> int:
    """Wait until the backend cannot send any more; returns how much it still holds."""
    left, unchanged = -1, 0
    while unchanged < SETTLED_TURNS:
        await turns(1)
        now = peer.writer.transport.get_write_buffer_size()
        unchanged = unchanged + 1 if now == left else 0
        left = now
    return left


async def test_a_flood_is_held_back_and_then_read_to_its_end() -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        peer.writer.write(OK + b"Content-Length: %d\r\n\r\n" % FLOOD)
        peer.writer.write(b"x" * FLOOD)
        answer = await finish(call)

        assert await _stuck(peer) > FLOOD - KERNEL_BUFFERS
        sizes = []
        while piece := await answer.read():
            sizes.append(len(piece))
        answer.close()

    assert sum(sizes) == FLOOD
    assert max(sizes) <= PAUSE_READING_ABOVE_BYTES + ONE_RECEIVE


async def test_a_flood_that_nobody_reads_can_be_left_at_once() -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        peer.writer.write(OK + b"\r\n" + b"x" * FLOOD)
        answer = await finish(call)
        await _stuck(peer)
        answer.close()

        await peer.gone()


async def test_a_connection_released_with_reading_paused_reads_its_next_response() -> None:
    size = PAUSE_READING_ABOVE_BYTES + 100

    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        peer.writer.write(OK + b"Content-Length: %d\r\n\r\n" % size)
        peer.writer.write(b"x" * size)
        answer = await finish(call)
        await _stuck(peer)
        answer.close()
        again = post(upstream)
        await peer.request()
        await peer.send(OK + b"Content-Length: 2\r\n\r\nok")

        assert await read_all(await finish(again)) == b"ok"
