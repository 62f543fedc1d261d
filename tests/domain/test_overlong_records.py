"""Records that are too long to be held whole."""

import pytest

from domain.stream_reader import MAX_HELD_BYTES, MAX_RECORD_BYTES
from tests.support.streams import COUNTS, last_line, line, native, ndjson


@pytest.mark.parametrize("piece_bytes", [1_000_000_000, 65_536, 1_000])
def test_a_final_line_of_two_megabytes_passes_byte_for_byte(piece_bytes: int) -> None:
    body = ndjson(line("a"), last_line(**COUNTS, context=list(range(320_000))))
    stream = native()

    pieces = [stream.feed(body[start : start + piece_bytes]) for start in range(0, len(body), piece_bytes)]

    assert len(body) > 2_000_000
    assert b"".join(pieces) == body
    assert (stream.finished, stream.overlong) == (True, False)
    assert stream.usage is not None


def test_an_overlong_record_flows_before_it_ends() -> None:
    stream = native()
    head = b'{"model":"llama3:latest","response":"' + b"x" * MAX_HELD_BYTES

    assert stream.feed(head[:1_000]) == b""
    assert stream.feed(head[1_000:]) == head
    assert stream.feed(b"yy") == b"yy"
    assert stream.feed(b'","done":false}\n') == b'","done":false}\n'
    assert (stream.overlong, stream.tokens) == (False, MAX_HELD_BYTES // 4)


def test_an_overlong_record_carries_the_clients_spelling() -> None:
    body = ndjson(last_line(context=list(range(300_000))))
    stream = native("LLAMA3")

    pieces = [stream.feed(body[start : start + 65_536]) for start in range(0, len(body), 65_536)]

    assert b"".join(pieces) == body.replace(b"llama3:latest", b"LLAMA3")


def test_an_echo_touches_only_the_beginning_of_an_overlong_record() -> None:
    stream = native("LLAMA3")
    stream.feed(b'{"model":"llama3:latest","response":"' + b"x" * MAX_HELD_BYTES)
    rest = b'","tool":{"model":"llama3:latest"},"done":false}\n'

    assert stream.feed(rest[:-2]) + stream.feed(rest[-2:]) == rest


def test_an_overlong_record_that_may_be_an_error_is_held() -> None:
    stream = native()

    assert stream.feed(b'{"error":"' + b"x" * MAX_HELD_BYTES) == b""
    assert stream.feed(b'"}\n') == b""
    assert stream.failure == "error_record"


def test_an_overlong_record_that_turns_out_malformed_leaves_the_client_inside_it() -> None:
    stream = native()
    stream.feed(b'{"response":"' + b"x" * MAX_HELD_BYTES)

    assert stream.feed(b"}\n") == b""
    assert (stream.failed, stream.overlong) == (True, True)


def test_an_endless_record_fails_at_a_bound() -> None:
    stream = native()
    released = sum(len(stream.feed(b"x" * 65_536)) for _ in range(MAX_RECORD_BYTES // 65_536 + 1))

    assert (stream.failed, stream.failure) == (True, "oversize")
    assert released <= MAX_RECORD_BYTES
