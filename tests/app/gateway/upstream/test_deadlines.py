"""Nothing waits for ever, and who stops waiting closes the socket."""

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable, Iterator

import pytest

from app.gateway.upstream.adapter import BackendUpstream
from domain.errors import Sent, UpstreamFailed
from tests.app.gateway.upstream.scripted import (
    EMPTY,
    OK,
    REQUEST_ID,
    Peer,
    ScriptedBackend,
    Waits,
    client_of,
    finish,
    post,
    scripted_backend,
    served,
    turns,
)

CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
SHORT_S = 0.1


@contextlib.contextmanager
def backend_that_accepts_nobody() -> Iterator[str]:
    """Listen with a queue so full that the kernel drops every further attempt."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = False
        while not waiting:
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)  # noqa: FBT003
            filler.connect_ex(address)
            waiting = not select.select([], [filler], [], 0.05)[1]
        yield f"http://127.0.0.1:{address[1]}"


async def test_a_refused_connection_is_a_failure_before_anything_was_sent() -> None:
    async with scripted_backend() as gone:
        url = gone.url

    async with client_of(url) as upstream:
        with pytest.raises(UpstreamFailed) as failed:
            await finish(post(upstream))

    assert (failed.value.kind, failed.value.sent) == ("connect_refused", Sent.NOTHING)
    assert isinstance(failed.value.__cause__, ConnectionRefusedError)


async def test_an_unknown_name_is_a_failure_before_anything_was_sent() -> None:
    async with client_of("http://no-such-backend.invalid:11434") as upstream:
        with pytest.raises(UpstreamFailed) as failed:
            await finish(post(upstream))

    assert (failed.value.kind, failed.value.sent) == ("dns", Sent.NOTHING)


async def test_a_backend_that_accepts_nobody_meets_the_connect_deadline() -> None:
    with backend_that_accepts_nobody() as url:
        async with client_of(url, waits=Waits(connect_s=SHORT_S)) as upstream:
            with pytest.raises(UpstreamFailed) as failed:
                await finish(post(upstream))

    assert (failed.value.kind, failed.value.sent) == ("connect_timeout", Sent.NOTHING)


async def test_every_address_of_a_name_is_tried() -> None:
    async with scripted_backend(host="127.0.0.1") as backend:
        port = backend.url.rpartition(":")[2]
        async with client_of(f"http://localhost:{port}") as upstream:
            await served(upstream, backend, EMPTY)


async def test_an_ipv6_address_is_reached() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on loopback")

    async with scripted_backend(host="::1") as backend, client_of(backend.url) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        request = await peer.request()
        await peer.send(EMPTY)
        (await finish(call)).close()

    assert b"\r\nHost: [::1]:" in request.head


async def test_a_backend_that_never_answers_meets_the_first_byte_deadline() -> None:
    async with (
        scripted_backend() as backend,
        client_of(backend.url, waits=Waits(first_byte_s=SHORT_S)) as upstream,
    ):
        call = post(upstream)
        peer = await backend.peer()

        with pytest.raises(UpstreamFailed) as failed:
            await finish(call)
        await peer.gone()

    assert (failed.value.kind, failed.value.sent) == ("first_byte_timeout", Sent.REQUEST)


async def test_a_half_sent_head_and_interim_responses_do_not_move_the_first_byte_deadline() -> None:
    async with (
        scripted_backend() as backend,
        client_of(backend.url, waits=Waits(first_byte_s=SHORT_S)) as upstream,
    ):
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n", OK + b"X-A")

        with pytest.raises(UpstreamFailed, match="first_byte_timeout"):
            await finish(call)


async def test_a_reused_connection_that_never_answers_is_not_tried_again() -> None:
    async with (
        scripted_backend() as backend,
        client_of(backend.url, waits=Waits(first_byte_s=SHORT_S)) as upstream,
    ):
        await served(upstream, backend, EMPTY)

        with pytest.raises(UpstreamFailed, match="first_byte_timeout"):
            await finish(post(upstream))

    assert len(backend.peers) == 1


async def test_a_silent_body_meets_the_idle_deadline() -> None:
    async with scripted_backend() as backend, client_of(backend.url, waits=Waits(idle_s=SHORT_S)) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        await peer.send(CHUNKED + b"5\r\nhello\r\n")
        answer = await finish(call)
        assert await answer.read() == b"hello"

        with pytest.raises(UpstreamFailed) as failed:
            await answer.read()
        answer.close()
        await peer.gone()

    assert (failed.value.kind, failed.value.sent) == ("idle_timeout", Sent.HEAD_RECEIVED)


async def test_the_idle_deadline_starts_anew_with_each_piece() -> None:
    waits = Waits(idle_s=4 * SHORT_S)
    loop = asyncio.get_running_loop()

    async with scripted_backend() as backend, client_of(backend.url, waits=waits) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        await peer.send(CHUNKED)
        answer = await finish(call)
        for n in range(12):  # three times the deadline in all
            loop.call_later(SHORT_S, peer.writer.write, b"1\r\n%x\r\n" % n)

            assert await answer.read() == b"%x" % n
        answer.close()


async def test_time_the_reader_takes_is_not_the_backends() -> None:
    waits = Waits(idle_s=SHORT_S)
    loop = asyncio.get_running_loop()

    async with scripted_backend() as backend, client_of(backend.url, waits=waits) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        await peer.send(CHUNKED)
        answer = await finish(call)
        loop.call_soon(peer.writer.write, b"2\r\nno\r\n")
        assert await answer.read() == b"no"
        reader_is_back = loop.create_future()
        loop.call_later(3 * SHORT_S, reader_is_back.set_result, None)
        await reader_is_back
        await peer.send(b"2\r\nok\r\n0\r\n\r\n")

        assert await answer.read() == b"ok"
        answer.close()


async def test_cancelling_before_the_head_closes_the_socket() -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        await peer.send(b"HTTP/1.1 200 O")
        call.cancel()
        await peer.gone()
        await turns(1)

        assert call.cancelled()
        await served(upstream, backend, EMPTY)


async def test_cancelling_within_the_body_closes_the_socket_at_once() -> None:
    loop = asyncio.get_running_loop()

    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        await peer.send(CHUNKED)
        answer = await finish(call)
        reading = asyncio.create_task(answer.read())
        await turns(1)
        cancelled_at = loop.time()
        reading.cancel()
        await peer.gone()
        took_s = loop.time() - cancelled_at

        with pytest.raises(UpstreamFailed, match="closed"):
            await answer.read()
        answer.close()
        await served(upstream, backend, EMPTY)

    assert took_s < 0.05


async def test_cancelling_a_read_of_a_body_without_length_does_not_make_it_complete() -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        await peer.send(OK + b"\r\n")
        answer = await finish(call)
        reading = asyncio.create_task(answer.read())
        await turns(1)
        reading.cancel()
        await peer.gone()

        with pytest.raises(UpstreamFailed, match="closed"):
            await answer.read()
        answer.close()


async def test_cancelling_while_connecting_leaves_nothing_behind() -> None:
    with backend_that_accepts_nobody() as url:
        async with client_of(url, max_connections=1) as upstream:
            for _ in range(2):  # the second would wait for ever if the first had kept the only place
                call = post(upstream)
                await turns(5)
                call.cancel()
                await asyncio.wait([call])

                assert call.cancelled()


async def test_two_readers_at_once_are_a_mistake_of_ours() -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        await peer.send(CHUNKED)
        answer = await finish(call)
        reading = asyncio.create_task(answer.read())
        await turns(1)

        with pytest.raises(RuntimeError, match="one reader"):
            await answer.read()
        reading.cancel()
        await asyncio.wait([reading])
        answer.close()


class Kept:
    """Keeps every request open, and what closes it."""

    def __init__(self) -> None:
        self.close: list[Callable[[], None]] = []

    def __call__(self, close: Callable[[], None]) -> bool:
        self.close.append(close)
        return True


async def left_alone(upstream: BackendUpstream, backend: ScriptedBackend, kept: Kept) -> Peer:
    """Stop waiting for an answer that has not begun; return the backend's end."""
    call = asyncio.create_task(
        upstream.post(b"/api/chat", b"{}", request_id=REQUEST_ID, traceparent=None, keeps=kept)
    )
    peer = await backend.peer()
    await peer.request()
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    return peer


async def test_a_request_that_is_kept_stays_open_until_its_first_byte() -> None:
    kept = Kept()
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        peer = await left_alone(upstream, backend, kept)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SHORT_S):
                await peer.reader.read()

        await peer.send(b"H")
        await peer.gone()

        kept.close[0]()
        await served(upstream, backend, EMPTY)
    assert len(backend.peers) == 2


async def test_a_request_that_is_kept_can_be_closed() -> None:
    kept = Kept()
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        peer = await left_alone(upstream, backend, kept)

        kept.close[0]()
        await peer.gone()


async def test_a_request_that_is_kept_meets_its_deadline() -> None:
    async with (
        scripted_backend() as backend,
        client_of(backend.url, waits=Waits(first_byte_s=SHORT_S)) as upstream,
    ):
        peer = await left_alone(upstream, backend, Kept())

        await peer.gone()


async def test_an_answer_that_has_begun_is_not_kept() -> None:
    kept = Kept()
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = asyncio.create_task(
            upstream.post(b"/api/chat", b"{}", request_id=REQUEST_ID, traceparent=None, keeps=kept)
        )
        peer = await backend.peer()
        await peer.request()
        await peer.send(OK)
        call.cancel()

        await peer.gone()
    assert not kept.close
