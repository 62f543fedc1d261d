"""Streams of native records and of OpenAI's events."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.usage import MeasuredUsage
from tests.support.counts import count
from tests.support.streams import (
    CONTENT,
    DONE,
    FINISH,
    NATIVE,
    OPENAI,
    ZEROS,
    chunk,
    last_line,
    line,
    native,
    ndjson,
    openai,
    reader,
    sse,
    usage_chunk,
)

pytestmark = pytest.mark.parser


def test_a_native_stream_passes_unchanged_and_is_measured() -> None:
    stream = native()

    assert stream.feed(NATIVE) == NATIVE
    assert stream.finished
    assert stream.tokens == 3
    assert stream.usage == MeasuredUsage(7, 3, total_ns=90, load_ns=20, prompt_ns=30, eval_ns=15)


def test_an_openai_stream_loses_the_usage_nobody_asked_for() -> None:
    stream = openai()

    assert stream.feed(OPENAI) == CONTENT + FINISH + DONE
    assert stream.finished
    assert stream.tokens == 3
    assert stream.usage == MeasuredUsage(7, 3)


def test_an_openai_stream_keeps_the_usage_that_was_asked_for() -> None:
    stream = openai(wants_usage=True)

    assert stream.feed(OPENAI) == OPENAI
    assert stream.usage == MeasuredUsage(7, 3)


def test_a_completions_stream_shows_no_usage_key_unless_asked() -> None:
    with_zeros = sse(chunk("a", usage=ZEROS), chunk("", "stop", usage=ZEROS), usage_chunk()) + DONE
    stream = reader("/v1/completions")

    assert stream.feed(with_zeros) == sse(chunk("a"), chunk("", "stop")) + DONE
    assert stream.usage == MeasuredUsage(7, 3)


def test_a_usage_key_in_the_middle_is_removed_too() -> None:
    middle = b'data: {"usage": {"prompt_tokens":0}, "choices":[{"finish_reason":null, "text":"a"}]}\n\n'

    assert (
        reader("/v1/completions").feed(middle)
        == b'data: {"choices":[{"finish_reason":null, "text":"a"}]}\n\n'
    )


def test_a_completions_stream_keeps_the_usage_keys_that_were_asked_for() -> None:
    with_zeros = sse(chunk("a", usage=ZEROS), chunk("", "stop", usage=ZEROS), usage_chunk()) + DONE
    stream = reader("/v1/completions", stream_options={"include_usage": True})

    assert stream.feed(with_zeros) == with_zeros


TRICKY = (
    'the end: {"done":true}\n',
    '"usage":{"prompt_tokens":9}',
    "data: [DONE]\n\n",
    '"error":"x"',
    "\u2028\u2029\x85",
    '"model":"llama3:latest"',
)


@pytest.mark.parametrize("text", TRICKY)
def test_what_a_model_writes_cannot_imitate_the_wire(text: str) -> None:
    native_bytes, openai_bytes = ndjson(line(text)), sse(chunk(text))
    native_stream, openai_stream = native(), openai()

    assert native_stream.feed(native_bytes) == native_bytes
    assert openai_stream.feed(openai_bytes) == openai_bytes
    for stream in (native_stream, openai_stream):
        assert (stream.finished, stream.failed, stream.tokens, stream.usage) == (False, False, 1, None)


def test_tool_arguments_cannot_imitate_the_end() -> None:
    call = {
        "message": {"tool_calls": [{"function": {"arguments": {"done": True, "error": "x"}}}]},
        "done": False,
    }
    stream = native()
    stream.feed(ndjson(call))

    assert (stream.finished, stream.failed, stream.usage) == (False, False, None)


def test_spaces_in_a_record_change_nothing() -> None:
    stream = native()

    assert stream.feed(b'{ "done" : true , "eval_count" : 5 }\n')
    assert stream.finished
    assert stream.usage == MeasuredUsage(None, 5)


def test_a_missing_count_of_output_is_what_was_released() -> None:
    stream = native()
    stream.feed(ndjson(line("a"), line("b"), last_line()))

    assert stream.usage == MeasuredUsage(None, 2)


def test_counts_that_make_no_sense_are_no_usage() -> None:
    stream = native()
    stream.feed(ndjson(last_line(eval_count=-1)))

    assert stream.finished
    assert stream.usage is None


@pytest.mark.parametrize("pieces", range(1, 4))
def test_a_stream_cut_anywhere_reads_the_same(pieces: int) -> None:
    for make, body in ((native, NATIVE), (openai, OPENAI)):
        whole = make()
        expected = whole.feed(body)
        places = range(0, len(body), 1 if pieces == 1 else 17)
        for cuts in itertools.combinations(places, pieces):
            stream = make()
            released = b"".join(
                stream.feed(body[start:end]) for start, end in itertools.pairwise((0, *cuts, len(body)))
            )
            assert released == expected
            assert (stream.finished, stream.tokens, stream.usage) == (True, whole.tokens, whole.usage)


@given(st.lists(st.integers(0, 2_000), max_size=30), st.sampled_from(("LLAMA3", "llama3")), st.booleans())
@settings(max_examples=count(200, 50_000), deadline=None)
def test_a_stream_in_any_pieces_reads_the_same(cuts: list[int], model: str, crlf: bool) -> None:  # noqa: FBT001
    body = b": ping\n\nevent: x\ndata: " + OPENAI.removeprefix(b"data: ")
    body = body.replace(b"\n", b"\r\n") if crlf else body
    expected = openai(model).feed(body)
    stream = openai(model)

    places = (0, *sorted(cuts), len(body))

    assert b"".join(stream.feed(body[start:end]) for start, end in itertools.pairwise(places)) == expected
    assert (stream.finished, stream.tokens) == (True, 3)


def test_only_whole_records_are_released() -> None:
    stream = native()
    first, second = ndjson(line("a")), ndjson(line("b"))

    assert stream.feed(first + second[:10]) == first
    assert stream.tokens == 1
    assert stream.feed(second[10:-1]) == b""
    assert stream.feed(second[-1:]) == second
    assert stream.tokens == 2


def test_lines_that_end_in_crlf_are_relayed_unchanged() -> None:
    body = NATIVE.replace(b"\n", b"\r\n")
    stream = native()

    assert stream.feed(body) == body
    assert stream.finished


def test_blank_lines_never_reach_a_native_client() -> None:
    stream = native()

    assert stream.feed(b"\n\r\n" + ndjson(line("a")) + b"\n") == ndjson(line("a"))


def test_comments_pass_and_count_nothing() -> None:
    stream = openai()

    assert stream.feed(b": ping\n\n") == b": ping\n\n"
    assert stream.tokens == 0


@pytest.mark.parametrize("error", ["secret path /root", {"message": "secret path /root"}])
def test_an_error_record_is_kept_back_and_ends_the_stream(error: object) -> None:
    for stream, good, bad in ((native(), ndjson(line("a")), ndjson), (openai(), sse(chunk("a")), sse)):
        assert stream.feed(good + bad({"error": error}) + good) == good
        assert (stream.failed, stream.failure, stream.tokens) == (True, "error_record", 1)
        assert stream.error_text == "secret path /root"
        assert stream.feed(good) == b""


def test_a_backends_own_words_are_bounded() -> None:
    stream = native()
    stream.feed(ndjson({"error": "x" * 10_000}))

    assert len(stream.error_text) <= 256


GARBAGE = (b"<html>\n", b"null\n", b"[]\n", b"{}\n", b'{"done":"yes"}\n', b"{\xff}\n", b"[" * 10_000 + b"\n")


@pytest.mark.parametrize("record", GARBAGE, ids=range(len(GARBAGE)))
def test_what_is_no_record_is_kept_back_and_ends_the_stream(record: bytes) -> None:
    for stream, bad in ((native(), record), (openai(), b"data: " + record + b"\n")):
        assert stream.feed(bad) == b""
        assert (stream.failed, stream.failure) == (True, "malformed")


def test_done_without_a_finish_reason_is_no_end() -> None:
    stream = openai()

    assert stream.feed(CONTENT + DONE) == CONTENT
    assert (stream.finished, stream.failed) == (False, True)


def test_a_stream_without_terminator_is_not_finished() -> None:
    for stream, body in ((native(), ndjson(line("a"))), (openai(), CONTENT + FINISH)):
        stream.feed(body)
        assert stream.end() == b""
        assert not stream.finished


def test_what_follows_the_terminator_is_dropped() -> None:
    for stream, body in ((native(), NATIVE), (openai(wants_usage=True), OPENAI)):
        assert stream.feed(body + body) == body
        assert stream.feed(body) == b""
        assert stream.end() == b""


def test_a_last_record_may_lack_its_delimiter() -> None:
    for stream, body in ((native(), NATIVE), (openai(wants_usage=True), OPENAI)):
        bare = body.rstrip(b"\n")
        assert stream.feed(bare) + stream.end() == body
        assert stream.finished


def test_a_last_record_cut_in_the_middle_is_kept_back() -> None:
    stream = native()
    stream.feed(NATIVE[:-20])

    assert stream.end() == b""
    assert (stream.finished, stream.failed) == (False, True)


def test_an_exotic_spelling_is_echoed_in_every_record() -> None:
    expected = NATIVE.replace(b"llama3:latest", b"registry.ollama.ai/library/Llama3")

    assert native("registry.ollama.ai/library/Llama3").feed(NATIVE) == expected
    assert openai("LLAMA3", wants_usage=True).feed(OPENAI) == OPENAI.replace(b"llama3:latest", b"LLAMA3")


def test_an_echo_and_a_hidden_usage_go_together() -> None:
    stream = reader("/v1/completions", "LLAMA3")

    released = stream.feed(sse(chunk("a", usage=ZEROS)))

    assert released == sse(chunk("a", model="LLAMA3"))


def test_a_load_costs_nothing() -> None:
    stream = native()
    stream.feed(ndjson({**last_line(), "done_reason": "load"}))

    assert stream.usage == MeasuredUsage(0, 0)


def test_an_in_band_error_is_one_whole_record_and_no_success() -> None:
    for stream, end in ((native(), b"\n"), (openai(), b"\n\n")):
        record = stream.parting()
        stream.feed(record)

        assert (stream.failed, record.endswith(end), b"DONE" in record) == (True, True, False)


def test_a_native_in_band_error_is_a_string_and_an_openai_one_an_object() -> None:
    assert isinstance(json.loads(native().parting())["error"], str)
    assert json.loads(openai().parting().removeprefix(b"data: "))["error"].keys() == {
        "message",
        "type",
        "param",
        "code",
    }


@given(
    st.lists(
        st.binary(max_size=60) | st.sampled_from((b"\n", b"\n\n", b"data: ", b"{}", b'{"done":false}')),
        max_size=12,
    )
)
@settings(max_examples=count(500, 100_000), deadline=None)
def test_random_bytes_never_raise_and_never_finish(pieces: list[bytes]) -> None:
    for stream in (native(), openai(), openai("LLAMA3")):
        for piece in pieces:
            stream.feed(piece)
        stream.end()
        assert not stream.finished
