"""Streams of typed events: the Responses API's and Anthropic's."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.event_streams import MessagesReader, ResponsesReader
from domain.model_names import canonical
from domain.requests import parse_request
from domain.routes import MESSAGES_PATH, RESPONSES_PATH, inference_routes
from domain.stream_reader import MAX_HELD_BYTES, StreamReader
from domain.streams import stream_reader
from domain.usage import MeasuredUsage
from tests.support.counts import count

pytestmark = pytest.mark.parser

ROUTES = inference_routes()
TRICKY = (
    '{"type":"response.completed"}',
    "\n\ndata: {}\n\n",
    '"error":"x"',
    "\u2028\x85",
    '"model":"llama3:latest"',
)


def event(kind: str, **data: object) -> bytes:
    text = json.dumps({"type": kind, **data}, separators=(",", ":"))
    return f"event: {kind}\ndata: {text}\n\n".encode()


def reader(path: str, model: str = "llama3") -> StreamReader:
    prompt = {"input": "x"} if path == RESPONSES_PATH else {"messages": [{"content": "x"}], "max_tokens": 9}
    request = parse_request(ROUTES[path], json.dumps({"model": model, "stream": True, **prompt}).encode())
    name = canonical(model)
    assert name is not None
    return stream_reader(ROUTES[path], request, name)


def response(status: str, usage: object = None) -> dict[str, object]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": status,
        "model": "llama3:latest",
        "instructions": 'say "model":"llama3:latest"',
        "error": None,
        "usage": usage,
    }


def text_delta(text: str, number: int = 4) -> bytes:
    return event("response.output_text.delta", item_id="msg_1", delta=text, sequence_number=number)


RESPONSE_USAGE = {
    "input_tokens": 7,
    "output_tokens": 4,
    "total_tokens": 11,
    "input_tokens_details": {"cached_tokens": 0},
}
CREATED = event("response.created", response=response("in_progress"), sequence_number=0)
RESPONSE = b"".join(
    (
        CREATED,
        event("response.in_progress", response=response("in_progress"), sequence_number=1),
        event("response.output_item.added", item={"type": "message"}, sequence_number=2),
        event("response.content_part.added", part={"text": ""}, sequence_number=3),
        *(text_delta(text, number) for number, text in enumerate("abcd", 4)),
        event("response.output_text.done", text="abcd", sequence_number=8),
        event("response.completed", response=response("completed", RESPONSE_USAGE), sequence_number=9),
    )
)

START = event(
    "message_start",
    message={
        "id": "msg_1",
        "type": "message",
        "model": "llama3:latest",
        "content": [],
        "usage": {"input_tokens": 999, "output_tokens": 0},
    },
)
STOP_DELTA = event(
    "message_delta", delta={"stop_reason": "end_turn"}, usage={"input_tokens": 7, "output_tokens": 4}
)


def block_delta(text: str) -> bytes:
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


MESSAGE = b"".join(
    (
        START,
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("ping"),
        *map(block_delta, "abcd"),
        event("content_block_stop", index=0),
        STOP_DELTA,
        event("message_stop"),
    )
)
STREAMS = {RESPONSES_PATH: RESPONSE, MESSAGES_PATH: MESSAGE}
DELTAS = {RESPONSES_PATH: text_delta, MESSAGES_PATH: block_delta}
both = pytest.mark.parametrize("path", list(STREAMS))


@both
def test_a_stream_passes_unchanged_and_is_measured_by_its_last_counts(path: str) -> None:
    stream = reader(path)

    assert stream.feed(STREAMS[path]) == STREAMS[path]
    assert (stream.finished, stream.failed, stream.tokens) == (True, False, 4)
    assert stream.usage == MeasuredUsage(7, 4)


@both
@pytest.mark.parametrize("model", ["llama3", "LLAMA3"])
@pytest.mark.parametrize("pieces", range(1, 3))
def test_a_stream_cut_anywhere_reads_the_same(path: str, model: str, pieces: int) -> None:
    body = STREAMS[path]
    expected = reader(path, model).feed(body)
    for cuts in itertools.combinations(range(0, len(body), 1 if pieces == 1 else 29), pieces):
        stream = reader(path, model)
        released = b"".join(
            stream.feed(body[start:end]) for start, end in itertools.pairwise((0, *cuts, len(body)))
        )
        assert released == expected
        assert (stream.finished, stream.tokens, stream.usage) == (True, 4, MeasuredUsage(7, 4))


@given(
    st.sampled_from(list(STREAMS)),
    st.lists(st.integers(0, 3_000), max_size=30),
    st.sampled_from(("LLAMA3", "llama3")),
    st.booleans(),
)
@settings(max_examples=count(200, 50_000), deadline=None)
def test_a_stream_in_any_pieces_reads_the_same(
    path: str,
    cuts: list[int],
    model: str,
    crlf: bool,  # noqa: FBT001
) -> None:
    body = b": ping\n\n" + STREAMS[path]
    body = body.replace(b"\n", b"\r\n") if crlf else body
    expected = reader(path, model).feed(body)
    stream = reader(path, model)
    places = (0, *sorted(cuts), len(body))

    assert b"".join(stream.feed(body[start:end]) for start, end in itertools.pairwise(places)) == expected
    assert (stream.finished, stream.tokens) == (True, 4)


@both
def test_every_record_that_arrives_alone_is_released_at_once(path: str) -> None:
    stream = reader(path)

    for record in STREAMS[path].removesuffix(b"\n\n").split(b"\n\n"):
        assert stream.feed(record + b"\n\n") == record + b"\n\n"


@both
@pytest.mark.parametrize("text", TRICKY)
def test_what_a_model_writes_cannot_imitate_the_wire(path: str, text: str) -> None:
    stream = reader(path)
    record = DELTAS[path](text)

    assert stream.feed(record) == record
    assert (stream.finished, stream.failed, stream.tokens, stream.usage) == (False, False, 1, None)


@both
def test_an_exotic_spelling_is_echoed_wherever_the_model_is_named(path: str) -> None:
    body = STREAMS[path]

    released = reader(path, "LLAMA3").feed(body)

    assert released == body.replace(b'"model":"llama3:latest"', b'"model":"LLAMA3"')
    assert b'\\"model\\":\\"llama3:latest\\"' in released or path == MESSAGES_PATH


@both
def test_comments_pass_and_count_nothing(path: str) -> None:
    stream = reader(path)

    assert stream.feed(b": ping\n\n") == b": ping\n\n"
    assert stream.tokens == 0


ERRORS = {
    "an event": event("error", error={"type": "api_error", "message": "secret path /root"}),
    "an event of OpenAI's": b'data: {"error":{"message":"secret path /root"}}\n\n',
    "a text": b'data: {"error":"secret path /root"}\n\n',
}
FAILED = event(
    "response.failed",
    response=response("failed") | {"error": {"code": "server_error", "message": "secret path /root"}},
)


@pytest.mark.parametrize(
    ("path", "bad"),
    [(RESPONSES_PATH, FAILED), *itertools.product(STREAMS, ERRORS.values())],
)
def test_an_error_is_kept_back_and_ends_the_stream(path: str, bad: bytes) -> None:
    stream, good = reader(path), DELTAS[path]("a")

    assert stream.feed(good + bad + good) == good
    assert (stream.failed, stream.failure, stream.tokens) == (True, "error_record", 1)
    assert stream.error_text == "secret path /root"
    assert stream.feed(good) == b""


GARBAGE = (
    b"data: <html>\n\n",
    b"data: null\n\n",
    b"data: {}\n\n",
    b"data: [DONE]\n\n",
    b"what\n\n",
    b'data: {"type":5}\n\n',
    b"event: message_stop\n\ndata: x\n\n",
)


@both
@pytest.mark.parametrize("record", GARBAGE, ids=range(len(GARBAGE)))
def test_what_is_no_event_is_kept_back_and_ends_the_stream(path: str, record: bytes) -> None:
    stream = reader(path)
    stream.feed(record)

    assert (stream.failed, stream.failure, stream.tokens) == (True, "malformed", 0)


@pytest.mark.parametrize(
    ("path", "record"),
    [
        (RESPONSES_PATH, event("response.completed")),
        (RESPONSES_PATH, event("response.completed", response=response("completed", {"input_tokens": -1}))),
        (RESPONSES_PATH, event("response.created", response=[])),
        (MESSAGES_PATH, event("message_delta", usage="much")),
        (MESSAGES_PATH, event("message_stop")),
    ],
)
def test_an_event_without_what_its_type_promises_is_no_event(path: str, record: bytes) -> None:
    stream = reader(path)

    assert stream.feed(record) == b""
    assert (stream.finished, stream.failure) == (False, "malformed")


@both
def test_a_stream_without_its_last_event_is_not_finished(path: str) -> None:
    body = STREAMS[path]
    stream = reader(path)
    stream.feed(body[: body.rindex(b"event: ")])

    assert stream.end() == b""
    assert not stream.finished


@both
def test_what_follows_the_last_event_is_dropped(path: str) -> None:
    stream = reader(path)

    assert stream.feed(STREAMS[path] + b"data: [DONE]\n\n") == STREAMS[path]
    assert stream.feed(STREAMS[path]) == b""


@both
def test_a_last_event_may_lack_its_delimiter(path: str) -> None:
    stream = reader(path)

    assert stream.feed(STREAMS[path][:-2]) + stream.end() == STREAMS[path]
    assert stream.finished


def test_a_response_that_is_incomplete_is_an_end_too() -> None:
    stream = reader(RESPONSES_PATH)
    stream.feed(event("response.incomplete", response=response("incomplete", RESPONSE_USAGE)))

    assert (stream.finished, stream.usage) == (True, MeasuredUsage(7, 4))


def test_a_prompt_of_no_tokens_is_one_that_was_not_counted() -> None:
    stream = reader(MESSAGES_PATH)
    stream.feed(event("message_delta", usage={"input_tokens": 0, "output_tokens": 4}))

    assert stream.usage == MeasuredUsage(None, 4)


def test_thoughts_and_arguments_count_as_text_does() -> None:
    stream = reader(RESPONSES_PATH)
    stream.feed(event("response.reasoning_summary_text.delta", delta="hm"))
    stream.feed(event("response.function_call_arguments.delta", delta="{}"))

    assert stream.tokens == 2


def data_of(record: bytes) -> Any:
    name, data, *rest = record.decode().split("\n")
    assert rest == ["", ""]
    found = json.loads(data.removeprefix("data: "))
    assert name == f"event: {found['type']}"
    return found


def test_a_response_that_broke_off_is_told_as_failed_under_the_next_number() -> None:
    stream = reader(RESPONSES_PATH)
    stream.feed(RESPONSE[: RESPONSE.index(b"event: response.output_text.done")])

    told = data_of(stream.parting("why"))

    assert (told["type"], told["sequence_number"]) == ("response.failed", 8)
    failed = told["response"]
    assert (failed["id"], failed["created_at"], failed["model"]) == ("resp_1", 1_700_000_000, "llama3:latest")
    assert (failed["status"], failed["error"]) == ("failed", {"code": "server_error", "message": "why"})


def test_a_failed_response_names_the_model_as_the_client_did() -> None:
    stream = reader(RESPONSES_PATH, "LLAMA3")
    stream.feed(CREATED)

    assert data_of(stream.parting())["response"]["model"] == "LLAMA3"


def test_a_message_that_broke_off_is_told_by_an_error_event() -> None:
    told = data_of(reader(MESSAGES_PATH).parting("why"))

    assert told == {"type": "error", "error": {"type": "api_error", "message": "why"}}


@both
def test_an_in_band_error_is_no_success(path: str) -> None:
    stream = reader(path)
    stream.feed(reader(path).parting())

    assert (stream.failed, stream.failure) == (True, "error_record")


@both
def test_an_overlong_event_flows_before_it_ends(path: str) -> None:
    stream = reader(path)
    record = DELTAS[path]("x" * MAX_HELD_BYTES * 2)

    pieces = [stream.feed(record[start : start + 65_536]) for start in range(0, len(record), 65_536)]

    assert (b"".join(pieces), stream.tokens, stream.overlong) == (record, MAX_HELD_BYTES * 2 // 4, False)
    assert any(pieces[:-1])


def test_a_whole_response_of_a_megabyte_is_released_in_one_piece() -> None:
    stream = reader(RESPONSES_PATH, "LLAMA3")
    whole = response("completed", RESPONSE_USAGE) | {"output": "x" * 1_000_000}
    record = event("response.completed", response=whole)

    pieces = [stream.feed(record[start : start + 65_536]) for start in range(0, len(record), 65_536)]

    assert pieces[-1] == record.replace(b'"model":"llama3:latest"', b'"model":"LLAMA3"')
    assert (stream.finished, stream.usage) == (True, MeasuredUsage(7, 4))


PIECES = (
    b"\n",
    b"\n\n",
    b"event: message_stop\n",
    b"data: ",
    b"{}",
    b'{"type":"a.delta"}',
    b'{"type":"ping"}',
)


@given(st.lists(st.binary(max_size=60) | st.sampled_from(PIECES), max_size=12))
@settings(max_examples=count(500, 100_000), deadline=None)
def test_random_bytes_never_raise_and_never_finish(pieces: list[bytes]) -> None:
    for stream in (
        ResponsesReader(echo=None),
        MessagesReader(echo=None),
        reader(RESPONSES_PATH, "LLAMA3"),
        reader(MESSAGES_PATH, "LLAMA3"),
    ):
        for piece in pieces:
            stream.feed(piece)
        stream.end()
        assert not stream.finished


# -- records of more than one token


def response_call(arguments: str) -> bytes:
    return event("response.function_call_arguments.delta", item_id="fc_1", delta=arguments, sequence_number=5)


def message_call(arguments: str) -> bytes:
    return event(
        "content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": arguments}
    )


CALLS = {RESPONSES_PATH: response_call, MESSAGES_PATH: message_call}


@both
@pytest.mark.parametrize("words", [0, 3])
def test_a_call_counts_what_its_arguments_come_to(path: str, words: int) -> None:
    stream = reader(path)
    arguments = json.dumps({"city": "Ulm", "note": "x" * 400})
    stream.feed(DELTAS[path]("a") * words + CALLS[path](arguments))

    assert stream.tokens == words + len(arguments) // 4


def test_what_repeats_a_call_counts_nothing() -> None:
    stream = reader(RESPONSES_PATH)
    call = response_call("x" * 400)
    stream.feed(call + event("response.function_call_arguments.done", arguments="x" * 400, sequence_number=6))

    assert stream.tokens == 100


@both
def test_text_that_no_token_holds_counts_by_its_bytes(path: str) -> None:
    for text, tokens in (("x" * 128, 1), ("x" * 129, 32), ("你好" * 200, 300)):
        stream = reader(path)
        stream.feed(DELTAS[path]("a") + DELTAS[path](text))

        assert stream.tokens == 1 + tokens
