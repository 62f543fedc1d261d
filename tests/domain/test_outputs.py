"""How much a model wrote into a record or a body, whatever stands there."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.outputs import MAX_TOKEN_BYTES, Output, chat_output, delta_output, items_output
from tests.support.counts import count

pytestmark = pytest.mark.parser

READERS = (chat_output, delta_output, items_output)
WORDS = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize(
    ("output", "record", "piece"),
    [
        (Output(), 0, 0),
        (Output(text=1), 1, 1),
        (Output(text=MAX_TOKEN_BYTES), 1, MAX_TOKEN_BYTES // 4),
        (Output(text=MAX_TOKEN_BYTES + 4), MAX_TOKEN_BYTES // 4 + 1, MAX_TOKEN_BYTES // 4 + 1),
        (Output(arguments=2), 0, 1),
        (Output(arguments=40), 10, 10),
        (Output(text=2, arguments=40), 11, 10),
    ],
)
def test_bytes_become_tokens(output: Output, record: int, piece: int) -> None:
    assert (output.in_one_record, output.in_one_piece) == (record, piece)


@given(text=WORDS, thought=WORDS, city=WORDS)
def test_text_and_arguments_are_measured_as_they_are_and_not_as_they_are_escaped(
    text: str, thought: str, city: str
) -> None:
    arguments = json.dumps({"city": city}, ensure_ascii=False, separators=(",", ":"))
    wanted = Output(len(text.encode()) + len(thought.encode()), len(arguments.encode()))
    call = {"function": {"arguments": arguments}}
    said = {"content": text, "reasoning": thought, "tool_calls": [call]}
    items = [{"content": [{"text": text}]}, {"summary": [{"text": thought}]}, {"arguments": arguments}]

    assert chat_output(json.dumps({"choices": [{"delta": said}]}).encode()) == wanted
    assert items_output(json.dumps({"output": items}).encode()) == wanted


ODD = (
    b"", b"{}", b"[]", b"null", b"\xff", b"[" * 9_000, b'{"message":5}', b'{"delta":[]}', b'{"content":"a"}',
    b'{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"\\ud800"}}]}}]}',
    b'{"choices":[{"delta":{"tool_calls":[{}]}}]}', b'{"response":"\\ud800"}', b'{"delta":"\\ud800"}',
)  # fmt: skip


@pytest.mark.parametrize("data", ODD, ids=range(len(ODD)))
def test_what_is_no_record_holds_nothing(data: bytes) -> None:
    assert [read(data) for read in READERS] == [Output()] * len(READERS)


@given(st.binary(max_size=100))
@settings(max_examples=count(300, 100_000), deadline=None)
def test_random_bytes_never_raise(data: bytes) -> None:
    for read in READERS:
        read(data)
