"""How much of a response that is not body may arrive."""

import pytest

from domain.errors import Sent, UpstreamFailed
from tests.app.gateway.upstream.scripted import OK, client_of, finish, post, read_all, scripted_backend

CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
KIB = 1024
OVERSIZE_HEADS = {
    "one_line": [OK + b"X-A: ", b"a" * (64 * KIB)],
    "one_line_at_once": [OK + b"X-A: " + b"a" * (64 * KIB) + b"\r\nContent-Length: 0\r\n\r\n"],
    "status_line": [b"HTTP/1.1 200 " + b"a" * (64 * KIB) + b"\r\nContent-Length: 0\r\n\r\n"],
    "header_name": [OK + b"a" * (64 * KIB) + b": b\r\nContent-Length: 0\r\n\r\n"],
    "many_lines": [OK, *[b"X-A: %b\r\n" % (b"a" * KIB)] * 64],
    "129_headers": [OK + b"".join(b"X-%d: y\r\n" % n for n in range(128)) + b"Content-Length: 0\r\n\r\n"],
}


@pytest.mark.parametrize("oversize", OVERSIZE_HEADS)
async def test_a_head_beyond_its_bounds_is_refused(oversize: str) -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        await peer.send(*OVERSIZE_HEADS[oversize])

        with pytest.raises(UpstreamFailed) as failed:
            await finish(call)
        await peer.gone()

    assert (failed.value.kind, failed.value.sent) == ("oversize", Sent.REQUEST)


async def test_a_head_within_its_bounds_may_come_with_a_large_body_in_one_piece() -> None:
    head = (
        OK
        + b"".join(b"X-%d: %b\r\n" % (n, b"a" * 500) for n in range(127))
        + b"Content-Length: 200000\r\n\r\n"
    )

    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        await peer.send(head + b"b" * 200_000)
        answer = await finish(call)

        assert await read_all(answer) == b"b" * 200_000
        answer.close()


@pytest.mark.parametrize(
    ("opening", "filler"),
    [(b"5;", b"x"), (b"0\r\nX-T: ", b"x"), (b"0\r\n", b"X-T: 1\r\n")],
    ids=["extension", "one_trailer", "many_trailers"],
)
async def test_framing_without_body_is_bounded(opening: bytes, filler: bytes) -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        await peer.send(CHUNKED, opening)
        answer = await finish(call)
        peer.writer.write(filler * (1024 * KIB // len(filler)))

        with pytest.raises(UpstreamFailed) as failed:
            await read_all(answer)
        answer.close()
        await peer.gone()

    assert failed.value.kind == "oversize"


async def test_extensions_on_every_chunk_are_bounded_in_total() -> None:
    chunk = b"1;" + b"x" * 4000 + b"\r\na\r\n"

    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        await peer.send(CHUNKED)
        answer = await finish(call)
        peer.writer.write(chunk * 40)

        with pytest.raises(UpstreamFailed) as failed:
            await read_all(answer)
        answer.close()

    assert failed.value.kind == "oversize"


async def test_many_small_chunks_are_not_taken_for_padding() -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        call = post(upstream)
        peer = await backend.peer()
        await peer.request()
        peer.writer.write(CHUNKED + b"1\r\na\r\n" * 100_000 + b"0\r\n\r\n")
        answer = await finish(call)

        assert await read_all(answer) == b"a" * 100_000
        answer.close()
