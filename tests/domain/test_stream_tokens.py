"""How many tokens records are taken for that hold none, one or several."""

import json

import pytest

from tests.support.streams import chunk, line, native, ndjson, openai, sse

ARGUMENTS: dict[str, object] = {"city": "Ulm", "days": [1, 2, 3], "note": "x" * 400}
CALL_TOKENS = len(json.dumps(ARGUMENTS, separators=(",", ":"))) // 4


def native_call(arguments: dict[str, object]) -> dict[str, object]:
    called = [{"function": {"index": 0, "name": "weather", "arguments": arguments}}]
    message = {"role": "assistant", "content": "", "tool_calls": called}
    return {"model": "llama3:latest", "created_at": "2026-01-01T00:00:00Z", "message": message, "done": False}


def openai_call(arguments: dict[str, object], finish: str | None = None) -> dict[str, object]:
    function = {"name": "weather", "arguments": json.dumps(arguments, separators=(",", ":"))}
    called = [{"id": "call_1", "index": 0, "type": "function", "function": function}]
    delta = {"role": "assistant", "content": "", "tool_calls": called}
    return chunk("") | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


@pytest.mark.parametrize("words", [0, 3])
def test_a_call_counts_what_its_arguments_come_to(words: int) -> None:
    for stream, said in (
        (native(), ndjson(*[line("a")] * words, native_call(ARGUMENTS))),
        (openai(), sse(*[chunk("a")] * words, openai_call(ARGUMENTS))),
        (openai(), sse(*[chunk("a")] * words, openai_call(ARGUMENTS, "tool_calls"))),
    ):
        stream.feed(said)

        assert stream.tokens == words + CALL_TOKENS


def test_short_calls_count_by_their_arguments_too() -> None:
    arguments: dict[str, object] = {"city": "Ulm, Donau"}  # 21 bytes
    for stream, said in (
        (native(), ndjson(line("a"), native_call(arguments), native_call({}))),
        (openai(), sse(chunk("a"), openai_call(arguments), openai_call({}))),
    ):
        stream.feed(said)

        assert stream.tokens == 1 + 5 + 1


@pytest.mark.parametrize("field", ["response", "thinking"])
def test_text_that_no_token_holds_counts_by_its_bytes(field: str) -> None:
    for text, tokens in (("x" * 128, 1), ("x" * 129, 32), ("你好" * 200, 300)):
        for stream, said in (
            (native(), ndjson(line("a"), line("") | {field: text})),
            (openai(), sse(chunk("a"), chunk(text))),
        ):
            stream.feed(said)

            assert stream.tokens == 1 + tokens


def test_a_token_is_one_whatever_stands_round_it() -> None:
    logprobs = [{"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b", "logprob": -1.5}] * 20}]
    texts = ["", "a", " " * 128, "é", '\\"\n' * 9, "<&>" * 20, "你好" * 9]
    for stream, said in (
        (native(), ndjson(*map(line, texts), *(line(text, logprobs=logprobs) for text in texts))),
        (openai(), sse(*map(chunk, texts), *(chunk(text, logprobs=logprobs) for text in texts))),
    ):
        stream.feed(said)

        assert stream.tokens == 2 * len(texts)


def test_log_probabilities_hide_no_call() -> None:
    logprobs = [{"token": "a", "top_logprobs": [{"token": "b", "logprob": -1.5}] * 20}]
    for stream, said in (
        (native(), ndjson(line("a", logprobs=logprobs), native_call(ARGUMENTS))),
        (openai(), sse(chunk("a", logprobs=logprobs), openai_call(ARGUMENTS))),
    ):
        stream.feed(said)

        assert stream.tokens == 1 + CALL_TOKENS


@pytest.mark.parametrize("odd", [{"message": 5}, {"message": {"tool_calls": {}}}, {"response": [1]}])
def test_a_record_whose_content_is_odd_counts_one(odd: dict[str, object]) -> None:
    stream = native()
    stream.feed(ndjson(line("a") | odd))

    assert (stream.failed, stream.tokens) == (False, 1)
