"""The bound on connections, who waits for one, and the end of all of them."""

import asyncio

import pytest

from domain.errors import Sent, UpstreamFailed
from tests.app.gateway.upstream.scripted import (
    EMPTY,
    OK,
    PATIENCE_S,
    Waits,
    client_of,
    finish,
    post,
    scripted_backend,
    served,
    turns,
)

CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CLOSE = OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n"


async def test_at_the_bound_a_request_waits_for_the_connection_of_another() -> None:
    async with scripted_backend() as backend, client_of(backend.url, max_connections=1) as upstream:
        first = post(upstream)
        peer = await backend.peer()
        await peer.request()
        second = post(upstream)
        await peer.send(EMPTY)
        (await finish(first)).close()
        await peer.request()
        await peer.send(EMPTY)
        (await finish(second)).close()

    assert len(backend.peers) == 1


async def test_at_the_bound_a_request_may_open_what_another_closed() -> None:
    async with scripted_backend() as backend, client_of(backend.url, max_connections=1) as upstream:
        first = post(upstream)
        peer = await backend.peer()
        await peer.request()
        second = post(upstream)
        await peer.send(CLOSE)
        (await finish(first)).close()
        other = await backend.peer()
        await other.request()
        await other.send(EMPTY)

        assert (await finish(second)).status == 200


async def test_waiting_requests_are_served_in_order() -> None:
    async with scripted_backend() as backend, client_of(backend.url, max_connections=1) as upstream:
        calls = [post(upstream, b'{"n":0}')]
        peer = await backend.peer()
        for n in range(1, 5):
            calls.append(post(upstream, b'{"n":%d}' % n))
            await turns(1)
        bodies = []
        for call in calls:
            bodies.append((await peer.request()).body)
            await peer.send(EMPTY)
            (await finish(call)).close()

    assert bodies == [b'{"n":%d}' % n for n in range(5)]


async def test_no_free_connection_within_the_connect_deadline_is_a_failure() -> None:
    waits = Waits(connect_s=0.05)

    async with (
        scripted_backend() as backend,
        client_of(backend.url, max_connections=1, waits=waits) as upstream,
    ):
        first = post(upstream)
        peer = await backend.peer()

        with pytest.raises(UpstreamFailed) as failed:
            await finish(post(upstream))
        await peer.request()
        await peer.send(EMPTY)
        (await finish(first)).close()
        second = post(upstream)
        await peer.request()
        await peer.send(EMPTY)
        (await finish(second)).close()

    assert (failed.value.kind, failed.value.sent) == ("pool_exhausted", Sent.NOTHING)


async def test_a_waiting_request_that_is_cancelled_takes_nothing_with_it() -> None:
    async with scripted_backend() as backend, client_of(backend.url, max_connections=1) as upstream:
        first = post(upstream)
        peer = await backend.peer()
        await peer.request()
        second, third = post(upstream), post(upstream)
        await turns(1)
        await peer.send(EMPTY)
        answer = await finish(first)
        answer.close()  # hands the connection to `second` ...
        second.cancel()  # ... which leaves before it could use it
        await peer.request()
        await peer.send(EMPTY)

        assert (await finish(third)).status == 200
        assert second.cancelled()


async def test_failed_connects_give_their_place_back() -> None:
    async with scripted_backend() as gone:
        url = gone.url

    async with client_of(url, max_connections=1) as upstream:
        for _ in range(3):
            with pytest.raises(UpstreamFailed) as failed:
                await finish(post(upstream))

            assert failed.value.kind == "connect_refused"


async def test_closing_the_upstream_ends_idle_and_busy_connections_and_waiting_requests() -> None:
    async with scripted_backend() as backend, client_of(backend.url, max_connections=2) as upstream:
        idle = await served(upstream, backend, EMPTY)
        streaming = post(upstream)
        await idle.request()
        await idle.send(CHUNKED)
        answer = await finish(streaming)
        unanswered = post(upstream)
        busy = await backend.peer()
        await busy.request()
        waiting = post(upstream)
        await turns(2)

        await upstream.aclose()

        for call, sent in ((unanswered, Sent.REQUEST), (waiting, Sent.NOTHING)):
            with pytest.raises(UpstreamFailed) as failed:
                await finish(call)
            assert (failed.value.kind, failed.value.sent) == ("closed", sent)
        with pytest.raises(UpstreamFailed, match="closed"):
            await answer.read()
        with pytest.raises(UpstreamFailed, match="closed"):
            await finish(post(upstream))
        await asyncio.wait_for(asyncio.gather(idle.gone(), busy.gone()), PATIENCE_S)


async def test_closing_the_upstream_does_not_end_a_body_without_length_in_silence() -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        await peer.send(OK + b"\r\nhalf")
        answer = await finish(call)
        await answer.read()

        await upstream.aclose()

        with pytest.raises(UpstreamFailed, match="closed"):
            await answer.read()


async def test_a_connection_that_rested_too_long_is_closed() -> None:
    async with scripted_backend() as backend, client_of(backend.url, max_idle_s=0.05) as upstream:
        peer = await served(upstream, backend, EMPTY)

        await peer.gone()


async def test_the_rest_of_a_connection_does_not_count_while_it_works() -> None:
    loop = asyncio.get_running_loop()

    async with scripted_backend() as backend, client_of(backend.url, max_idle_s=0.05) as upstream:
        await served(upstream, backend, EMPTY)
        call = post(upstream)
        await backend.peers[0].request()
        loop.call_later(0.2, backend.peers[0].writer.write, EMPTY)

        assert (await finish(call)).status == 200
