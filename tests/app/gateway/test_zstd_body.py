"""Bodies that come as zstd: what is decoded, where, and what a bomb costs."""

import os
import random
import subprocess
import sys
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.gateway.body import Bodies
from app.gateway.call import Call
from app.gateway.zstd_body import STEP_BYTES, WINDOW_LOG, ZstdBody
from domain.errors import BadRequest, BodyTooLarge, UnsupportedEncoding
from tests.support.asgi import Inbox
from tests.support.counts import count
from tests.support.repository import ROOT

pytestmark = pytest.mark.parser

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MIB: Final = 1024 * 1024
TEXT: Final = b'{"model":"llama3.2","input":"hello"}' * 50
FRAME: Final = zstd.compress(TEXT)


def decoded(*pieces: bytes, max_bytes: int = MIB) -> bytes:
    body = ZstdBody(max_bytes=max_bytes)
    for piece in pieces:
        body.feed(piece)
        while body.is_behind:
            assert body.feed(b"") <= STEP_BYTES
    return body.whole()


def bomb(size: int, *, window_log: int = 20) -> bytes:
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: window_log,
        zstd.CompressionParameter.content_size_flag: 0,
    }
    compressor = zstd.ZstdCompressor(options=options)
    pieces = [compressor.compress(bytes(MIB)) for _ in range(size // MIB)]
    return b"".join([*pieces, compressor.flush()])


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_frame_in_pieces_is_decoded(size: int) -> None:
    assert decoded(*(FRAME[at : at + size] for at in range(0, len(FRAME), size))) == TEXT


def test_more_than_one_step_comes_out_of_one_piece() -> None:
    text = random.Random(7).randbytes(MIB // 64) * 64 * 3  # nosec B311

    assert decoded(zstd.compress(text), max_bytes=4 * MIB) == text
    assert len(text) > 2 * STEP_BYTES


@pytest.mark.parametrize("end", range(0, len(FRAME), 5))
def test_a_frame_that_is_cut_off_is_refused(end: int) -> None:
    with pytest.raises(BadRequest, match=r"^the body ends before its zstd frame does$"):
        decoded(FRAME[:end])


@pytest.mark.parametrize("more", [b"x", FRAME, zstd.compress(b"")])
def test_only_one_frame_is_taken(more: bytes) -> None:
    with pytest.raises(BadRequest, match="goes on after"):
        decoded(FRAME + more)
    with pytest.raises(BadRequest, match="goes on after"):
        decoded(FRAME, more)


@pytest.mark.parametrize(
    "body", [b"no zstd at all", b"\x1f\x8b\x08\x00\x00", b"{}", FRAME[:12] + b"\xff" * 40]
)
def test_what_is_no_zstd_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        decoded(body)


def test_the_limit_holds_for_what_was_decoded() -> None:
    assert decoded(zstd.compress(bytes(1000)), max_bytes=1000) == bytes(1000)
    with pytest.raises(BodyTooLarge, match="decoded body is larger than the limit of 999"):
        decoded(zstd.compress(bytes(1000)), max_bytes=999)


def test_a_frame_that_looks_back_too_far_is_refused() -> None:
    assert decoded(bomb(16 * MIB, window_log=WINDOW_LOG), max_bytes=16 * MIB) == bytes(16 * MIB)
    with pytest.raises(BadRequest, match=r"^the body is not zstd, or needs a window of more than 8 MiB$"):
        decoded(bomb(16 * MIB, window_log=WINDOW_LOG + 1), max_bytes=16 * MIB)


@given(st.binary(max_size=200), st.integers(0, 30))
@settings(max_examples=count(300, 100_000), deadline=None)
def test_random_bytes_are_decoded_or_refused_and_nothing_else(junk: bytes, kept: int) -> None:
    try:
        decoded(FRAME[:kept] + junk)
    except BadRequest:
        return


_BOMBED = """
import resource, sys
from app.gateway.zstd_body import ZstdBody
from domain.errors import BodyTooLarge
frame = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
body = ZstdBody(max_bytes=4 << 20)
try:
    body.feed(frame)
    while body.is_behind:
        body.feed(b"")
except BodyTooLarge:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_t18_a_bomb_costs_bounded_memory() -> None:
    """Two gigabytes in a few dozen KB, in a process of its own so that nothing else has used the memory before."""
    frame = bomb(2048 * MIB)
    assert len(frame) < MIB

    run = subprocess.run(
        [sys.executable, "-c", _BOMBED],
        input=frame,
        capture_output=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    assert int(run.stdout) < 32 * 1024


# where it is taken


def call(path: bytes, encoding: bytes = b"zstd") -> Call:
    headers = [(b"content-encoding", encoding), (b"content-length", b"%d" % len(FRAME))]
    return Call(method="POST", raw_path=path, headers=headers, peer=None, started=0.0)


@pytest.mark.parametrize(
    "path", [b"/v1/responses", b"/v1/messages", b"/v1/chat/completions", b"/v1/embeddings"]
)
async def test_a_v1_route_takes_zstd(path: bytes) -> None:
    bodies = Bodies(max_bytes=MIB, base_timeout_s=10, max_buffered_bytes=64 * MIB)

    assert await bodies.read(call(path), Inbox([FRAME[:20], FRAME[20:]])) == TEXT


@pytest.mark.parametrize(
    ("path", "encoding"),
    [(b"/api/chat", b"zstd"), (b"/v1/responses", b"gzip"), (b"/v1/responses", b"zstd, zstd")],
)
async def test_t18_every_other_compression_is_refused_unread(path: bytes, encoding: bytes) -> None:
    inbox = Inbox([FRAME])

    with pytest.raises(UnsupportedEncoding):
        await Bodies(max_bytes=MIB, base_timeout_s=10, max_buffered_bytes=64 * MIB).read(
            call(path, encoding), inbox
        )
    assert inbox.read == 0


async def test_a_bomb_is_refused_by_its_first_piece() -> None:
    inbox = Inbox([bomb(64 * MIB), b"never read"])

    with pytest.raises(BodyTooLarge):
        await Bodies(max_bytes=MIB, base_timeout_s=10, max_buffered_bytes=64 * MIB).read(
            Call(
                method="POST",
                raw_path=b"/v1/x",
                headers=[(b"content-encoding", b"zstd")],
                peer=None,
                started=0.0,
            ),
            inbox,
        )
    assert inbox.read == 1
