"""Which connection carries a request: reuse, the keep-alive race, the bound."""

import asyncio

import pytest

from app.gateway.upstream.adapter import BackendUpstream
from domain.errors import Sent, UpstreamFailed
from tests.app.gateway.upstream.scripted import (
    EMPTY,
    OK,
    Peer,
    ScriptedBackend,
    client_of,
    finish,
    post,
    read_all,
    scripted_backend,
    served,
    turns,
)

CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CLOSE = OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n"


async def _answers_a_second_request(upstream: BackendUpstream, peer: Peer) -> None:
    call = post(upstream)
    await peer.request()
    await peer.send(EMPTY)
    (await finish(call)).close()


async def _opens_another(upstream: BackendUpstream, backend: ScriptedBackend) -> Peer:
    call = post(upstream)
    peer = await backend.peer()
    await peer.request()
    await peer.send(EMPTY)
    (await finish(call)).close()
    return peer


async def test_a_connection_is_used_again_after_a_complete_response() -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        peer = await served(upstream, backend, EMPTY)
        await _answers_a_second_request(upstream, peer)

    assert len(backend.peers) == 1


async def test_a_complete_response_need_not_be_read_for_reuse() -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        await peer.send(OK + b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000)
        answer = await finish(call)
        await answer.read()
        await turns(20)
        answer.close()
        await _answers_a_second_request(upstream, peer)

    assert len(backend.peers) == 1


async def test_the_connection_used_last_goes_first() -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        calls = {}
        for order in (b"1", b"2"):
            call = post(upstream)
            calls[order] = (call, await backend.peer())
        for call, peer in calls.values():
            await peer.request()
            await peer.send(EMPTY)
            (await finish(call)).close()
        await _answers_a_second_request(upstream, calls[b"2"][1])

    assert len(backend.peers) == 2


@pytest.mark.parametrize(
    "response",
    [
        CLOSE,
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        CHUNKED + b"0\r\nConnection: close\r\n\r\n",
        EMPTY + b"HTTP/1.1 200 OK\r\n",
        EMPTY + EMPTY,
        EMPTY + b"H",
        EMPTY + b"\0",
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=[
        "close", "http_1_0", "close_in_trailer", "second_status_line", "second_response", "one_byte_more",
        "garbage_after", "body_without_right",
    ],
)  # fmt: skip
async def test_a_connection_in_doubt_is_closed_and_not_used_again(response: bytes) -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        peer = await served(upstream, backend, response)
        await peer.gone()
        other = await _opens_another(upstream, backend)

    assert other is not peer


async def test_bytes_after_the_response_while_it_is_held_close_the_connection() -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        await peer.send(OK + b"Content-Length: 2\r\n\r\nok", b"HTTP/1.1 200 OK\r\n")
        answer = await finish(call)

        assert await read_all(answer) == b"ok"
        await peer.gone()
        answer.close()


async def test_bytes_on_an_idle_connection_close_it() -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        peer = await served(upstream, backend, EMPTY)
        await peer.send(EMPTY)
        await peer.gone()
        other = await _opens_another(upstream, backend)

    assert other is not peer


async def test_an_unread_incomplete_response_closes_the_connection_at_once() -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        await peer.send(CHUNKED + b"5\r\nhello\r\n")
        answer = await finish(call)
        loop = asyncio.get_running_loop()
        closed_at = loop.time()
        answer.close()
        await peer.gone()

        assert loop.time() - closed_at < 0.05


async def test_closing_twice_is_harmless_and_reading_afterwards_is_an_error() -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        await peer.send(EMPTY)
        answer = await finish(call)
        answer.close()
        answer.close()
        await _answers_a_second_request(upstream, peer)

        with pytest.raises(RuntimeError, match="closed"):
            await answer.read()


@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_a_reused_connection_closed_before_any_answer_is_replaced_once(ending: str) -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        peer = await served(upstream, backend, EMPTY)
        call = post(upstream, b'{"again":true}')
        await peer.request()
        getattr(peer, ending)()
        second = await backend.peer()
        request = await second.request()
        await second.send(EMPTY)
        answer = await finish(call)
        answer.close()

    assert (answer.status, request.body) == (200, b'{"again":true}')


async def test_the_replacement_is_not_replaced() -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        peer = await served(upstream, backend, EMPTY)
        call = post(upstream)
        await peer.request()
        peer.close()
        second = await backend.peer()
        await second.request()
        second.close()

        with pytest.raises(UpstreamFailed) as failed:
            await finish(call)

    assert (failed.value.kind, failed.value.sent) == ("closed", Sent.REQUEST)
    assert len(backend.peers) == 2


async def test_the_replacement_is_new_even_if_another_connection_is_idle() -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        calls, peers = [], []
        for _ in range(2):
            calls.append(post(upstream))
            peers.append(await backend.peer())
        for call, peer in zip(calls, peers, strict=True):
            await peer.request()
            await peer.send(EMPTY)
            (await finish(call)).close()
        again = post(upstream)
        await peers[1].request()
        peers[1].close()
        third = await backend.peer()
        await third.request()
        await third.send(EMPTY)
        (await finish(again)).close()

    assert len(backend.peers) == 3


async def test_the_replacement_is_new_even_if_only_a_used_connection_comes_free() -> None:
    async with scripted_backend() as backend, client_of(backend.url, max_connections=2) as upstream:
        dying = await served(upstream, backend, EMPTY)
        call = post(upstream, b'{"raced":1}')
        await dying.request()
        other_call = post(upstream)
        other = await backend.peer()
        await other.request()
        queued_call = post(upstream)
        await turns(1)
        dying.close()  # its place goes to the request that was waiting
        queued = await backend.peer()
        await queued.request()
        await other.send(EMPTY)
        (await finish(other_call)).close()  # this used connection goes to the one that was raced
        fresh = await backend.peer()
        request = await fresh.request()
        await fresh.send(EMPTY)
        (await finish(call)).close()
        await other.gone()
        await queued.send(EMPTY)
        (await finish(queued_call)).close()

    assert request.body == b'{"raced":1}'


@pytest.mark.parametrize(("ending", "kind"), [("close", "closed"), ("reset", "reset")])
async def test_a_fresh_connection_that_closes_without_answer_is_a_failure(ending: str, kind: str) -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        getattr(peer, ending)()

        with pytest.raises(UpstreamFailed) as failed:
            await finish(call)

    assert (failed.value.kind, failed.value.sent) == (kind, Sent.REQUEST)
    assert len(backend.peers) == 1


async def test_a_reused_connection_that_answered_one_byte_is_not_replaced() -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        peer = await served(upstream, backend, EMPTY)
        call = post(upstream)
        await peer.request()
        await peer.send(b"H")
        peer.close()

        with pytest.raises(UpstreamFailed) as failed:
            await finish(call)

    assert (failed.value.kind, failed.value.sent) == ("closed", Sent.REQUEST)
    assert len(backend.peers) == 1


async def test_an_idle_connection_closed_by_the_backend_is_forgotten() -> None:
    async with scripted_backend() as backend, client_of(backend.url, max_connections=1) as upstream:
        peer = await served(upstream, backend, EMPTY)
        peer.close()
        await turns(5)
        await _opens_another(upstream, backend)

    assert len(backend.peers) == 2


async def test_an_answer_that_overtakes_its_request_is_delivered_and_ends_the_connection() -> None:
    body = b"x" * (32 * 1024 * 1024)

    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream, body)
        peer = await backend.peer()
        await peer.head()
        await peer.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
        answer = await finish(call)

        assert (answer.status, await read_all(answer)) == (413, b"big")
        answer.close()
        await peer.gone()
        await _opens_another(upstream, backend)


async def test_a_large_body_arrives_whole() -> None:
    body = bytes(range(256)) * 8192

    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream, body)
        peer = await backend.peer()
        request = await peer.request()
        await peer.send(EMPTY)
        (await finish(call)).close()

    assert request.body == body
