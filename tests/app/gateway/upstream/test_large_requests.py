"""A large request is written as the backend takes it, and not beyond the answer."""

import asyncio

import pytest

from domain.errors import UpstreamFailed
from tests.app.gateway.upstream.scripted import (
    EMPTY,
    REQUEST_ID,
    Peer,
    Waits,
    client_of,
    finish,
    post,
    scripted_backend,
    turns,
)

MIB = 1024 * 1024
BODY = bytes(range(256)) * 4096 * 24
"""More than the kernel's buffers hold."""
SHORT_S = 0.2


async def stuck(peer: Peer) -> None:
    """Read the head of a request and nothing else."""
    await peer.head()
    peer.reader._transport.pause_reading()  # type: ignore[attr-defined] # noqa: SLF001 - no other way to be slow
    await turns(50)


@pytest.mark.parametrize(
    "body", [BODY, (BODY[:7], memoryview(BODY)[7 : 20 * MIB], BODY[20 * MIB :])], ids=["whole", "pieces"]
)
async def test_a_large_body_arrives_whole(body: bytes | tuple[bytes | memoryview, ...]) -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = asyncio.create_task(upstream.post(b"/api/chat", body, request_id=REQUEST_ID, traceparent=None))
        peer = await backend.peer()
        request = await peer.request()
        await peer.send(EMPTY)
        (await finish(call)).close()

        assert request.body == BODY


async def test_a_connection_that_carried_a_large_body_is_used_again() -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        for _ in range(2):
            call = post(upstream, BODY)
            peer = backend.peers[0] if backend.peers else await backend.peer()
            assert (await peer.request()).body == BODY
            await peer.send(EMPTY)
            (await finish(call)).close()

    assert len(backend.peers) == 1


async def test_an_answer_that_overtakes_a_large_body_ends_it() -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream, BODY)
        peer = await backend.peer()
        await stuck(peer)
        assert not call.done()
        peer.writer.write(b"HTTP/1.1 413 X\r\nContent-Length: 0\r\n\r\n")
        answer = await finish(call)
        answer.close()
        peer.reader._transport.resume_reading()  # type: ignore[attr-defined] # noqa: SLF001

        assert answer.status == 413
        await peer.gone()


async def test_a_backend_that_does_not_take_a_body_meets_the_deadline_of_the_answer() -> None:
    async with (
        scripted_backend() as backend,
        client_of(backend.url, waits=Waits(first_byte_s=SHORT_S)) as upstream,
    ):
        call = post(upstream, BODY)
        await stuck(await backend.peer())

        with pytest.raises(UpstreamFailed) as failure:
            await finish(call)
    assert failure.value.kind == "first_byte_timeout"


async def test_a_backend_that_leaves_in_the_middle_has_failed() -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream, BODY)
        peer = await backend.peer()
        await stuck(peer)
        peer.reset()

        with pytest.raises(UpstreamFailed) as failure:
            await finish(call)
    assert failure.value.kind in {"closed", "reset"}


async def test_a_request_that_is_not_all_sent_is_never_kept() -> None:
    asked = list[object]()

    def keeps(close: object) -> bool:
        asked.append(close)
        return True

    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = asyncio.create_task(
            upstream.post(b"/api/chat", BODY, request_id=REQUEST_ID, traceparent=None, keeps=keeps)
        )
        peer = await backend.peer()
        await stuck(peer)
        call.cancel()
        await asyncio.wait([call])
        peer.reader._transport.resume_reading()  # type: ignore[attr-defined] # noqa: SLF001

        await peer.gone()
    assert call.cancelled()
    assert not asked
