"""Every fault a backend can have, and what its clients and the ledger see of it."""

import asyncio
import json
from typing import Any, get_args

import httpx
import msgspec
import pytest

from app.gateway.line import RETRY_AFTER_S
from app.simulator.faults import Kind
from tests.support.asking import (
    ANTHROPIC_STREAM,
    ANTHROPIC_WHOLE,
    MODEL,
    NATIVE_STREAM,
    NATIVE_WHOLE,
    OPENAI_STREAM,
    OPENAI_WHOLE,
    PROMPT_CHARS,
    RESPONSES_STREAM,
    RESPONSES_WHOLE,
    SHAPES,
    STREAMS,
    WHOLES,
    Shape,
    answer_of,
    ask,
    ends_in_error,
    is_refusal,
    records,
    tokens_in,
    words_of,
)
from tests.support.fleet import COMMON, EMBEDDER, LONER, TOKENS_PER_ANSWER, Fleet
from tests.support.gateway import Gateway

CANARY = "canary-4711"
"""Stands in everything a backend says of its trouble; no tenant may ever see it."""
PROMPT_ESTIMATE = PROMPT_CHARS // 4
RELEASED = 3
ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
SECRET_PLACE = f"http://127.0.0.1:9/{CANARY}"


class Fault(msgspec.Struct, frozen=True):
    """One order to a simulated backend."""

    kind: str
    details: dict[str, Any] = {}
    shapes: tuple[Shape, ...] = SHAPES

    def __str__(self) -> str:
        return "-".join(
            [self.kind, *(f"{name}={value}" for name, value in self.details.items() if name != "body")]
        )


BEFORE_THE_FIRST_RECORD = [
    Fault("die_before"),
    Fault("die_before", {"reset": False}),
    Fault("error_first", {"body": CANARY}),
    Fault("die_after", {"after": 0}),
    Fault("die_after", {"after": 0, "partial": True}),
    Fault("truncated", {"after": 0}),
    Fault("inband_error", {"after": 0, "body": CANARY}),
    Fault("close_delimited", {"after": 0}),
    Fault("missing_model", {"body": f"model {CANARY} not found"}),
    Fault("status", {"status": 404, "raw_body": f"404 {CANARY}", "content_type": "text/plain"}),
    Fault("status", {"status": 405, "raw_body": f"405 {CANARY}", "content_type": "text/plain"}),
    Fault("busy", {"body": f"server busy {CANARY}"}),
    *(Fault("status", {"status": status, "body": CANARY}) for status in (401, 403, 429, 500, 502, 504)),
    Fault("status", {"status": 200, "raw_body": f"<html>{CANARY}", "content_type": "text/html"}),
    Fault("redirect", {"location": SECRET_PLACE}),
    Fault("huge_headers"),
    Fault("garbage"),
    Fault("gzip_body"),
    # A whole answer is held back until it is complete, so what would cut a stream only costs it an attempt.
    Fault("die_after", {"after": RELEASED}, WHOLES),
    Fault("truncated", {"after": RELEASED}, WHOLES),
    Fault("inband_error", {"after": RELEASED, "body": CANARY}, WHOLES),
    Fault("wrong_length", {}, WHOLES),
]

DYING_AFTER_A_RECORD = [
    Fault("die_after", {"after": RELEASED}),
    Fault("die_after", {"after": RELEASED, "partial": True}),
    Fault("hang", {"after": RELEASED}),
]

ENDING_WITHOUT_AN_END = [
    Fault("truncated", {"after": RELEASED}),
    Fault("truncated", {"after": RELEASED, "partial": True}),
    Fault("close_delimited", {"after": RELEASED}),
    # In these families Ollama says nothing of an error in mid-stream: the answer just ends.
    Fault("inband_error", {"after": RELEASED, "body": CANARY}, (RESPONSES_STREAM, ANTHROPIC_STREAM)),
]

SAYING_AN_ERROR = [
    Fault("inband_error", {"after": RELEASED, "body": CANARY}, (NATIVE_STREAM, OPENAI_STREAM)),
    Fault("inband_error", {"after": RELEASED, "raw_body": f"not json {CANARY}\n\n"}),
]

HARMLESS = [
    Fault("tiny_chunks"),
    Fault("close_delimited"),
    Fault("slow", {"delay_ms": 150, "chunk_delay_ms": 5}),
]


def tells_nothing(reply: httpx.Response) -> bool:
    """Tell whether nothing of the backend's own words is in a reply."""
    return CANARY not in reply.text and CANARY not in str(reply.headers)


@pytest.mark.parametrize("fault", BEFORE_THE_FIRST_RECORD, ids=str)
async def test_case_37_before_the_first_record_the_next_backend_answers(
    fleet: Fleet, client: httpx.AsyncClient, fault: Fault
) -> None:
    replies = []
    for shape in fault.shapes:
        await fleet.even_out()
        # Twice, because a connection that was used before and dies without a byte is replaced once.
        await fleet.a.order(fault.kind, count=2, **fault.details)
        reply = await ask(client, shape)
        replies.append(reply)
        assert (reply.status_code, answer_of(shape, reply)[:2]) == (200, "b "), shape
        assert tells_nothing(reply)

    for row in await fleet.rows(*replies):
        assert (row.outcome, row.tokens_out, row.estimated) == ("completed", TOKENS_PER_ANSWER, False)
        assert (row.attempted_backends, row.backend) == (["a", "b"], "b")


async def test_a_silent_backend_is_left_at_its_first_byte_deadline(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    await fleet.even_out()
    await fleet.a.order("hang", count=len(SHAPES))

    replies = await asyncio.gather(*(ask(client, shape) for shape in SHAPES))

    assert [answer_of(*pair)[:2] for pair in zip(SHAPES, replies, strict=True)] == ["b "] * len(SHAPES)
    for row in await fleet.rows(*replies):
        assert (row.outcome, row.attempted_backends) == ("completed", ["a", "b"])


async def told_in_band(fleet: Fleet, client: httpx.AsyncClient, fault: Fault, *, booked_as: str) -> None:
    """Meet a fault after a record: the client hears of it in its own words, and nobody else is asked."""
    await fleet.a.change(token_interval_ms=3)  # a reset takes along what the socket has not handed over yet
    replies = []
    shapes = [shape for shape in fault.shapes if shape.stream]
    for shape in shapes:
        await fleet.even_out()
        await fleet.a.order(fault.kind, **fault.details)
        reply = await ask(client, shape)
        replies.append(reply)
        assert reply.status_code == 200
        assert ends_in_error(shape, reply)
        assert tells_nothing(reply)
        assert await fleet.attempts() == "a"

    released = [tokens_in(*pair) for pair in zip(shapes, replies, strict=True)]
    assert set(released) <= ({RELEASED} if fault.kind != "die_after" else {1, 2, RELEASED})
    for row, tokens in zip(await fleet.rows(*replies), released, strict=True):
        assert (row.outcome, row.backend, row.attempts) == (booked_as, "a", 1)
        assert (row.tokens_in, row.estimated) == (PROMPT_ESTIMATE, True)
        assert row.tokens_out == tokens


@pytest.mark.parametrize("fault", SAYING_AN_ERROR, ids=str)
async def test_case_34_an_error_after_a_record_reaches_the_client_and_is_booked_as_failed(
    fleet: Fleet, client: httpx.AsyncClient, fault: Fault
) -> None:
    await told_in_band(fleet, client, fault, booked_as="upstream_failed")


@pytest.mark.parametrize("fault", ENDING_WITHOUT_AN_END, ids=str)
async def test_case_35_an_answer_without_its_end_is_never_a_success(
    fleet: Fleet, client: httpx.AsyncClient, fault: Fault
) -> None:
    await told_in_band(fleet, client, fault, booked_as="upstream_truncated")


@pytest.mark.parametrize("fault", DYING_AFTER_A_RECORD, ids=str)
async def test_case_38_who_dies_after_a_record_is_not_replaced(
    fleet: Fleet, client: httpx.AsyncClient, fault: Fault
) -> None:
    await told_in_band(fleet, client, fault, booked_as="upstream_truncated")


@pytest.mark.parametrize("shape", STREAMS, ids=str)
async def test_a_stream_cut_at_any_record_is_booked_with_what_was_released(
    fleet: Fleet, client: httpx.AsyncClient, shape: Shape
) -> None:
    indices = range(1, TOKENS_PER_ANSWER + 1)
    replies = []
    for index in indices:
        await fleet.c.order("truncated", after=index)
        replies.append(await ask(client, shape, LONER))

    assert [row.tokens_out for row in await fleet.rows(*replies)] == list(indices)
    assert all(ends_in_error(shape, reply) for reply in replies)


@pytest.mark.parametrize("fault", HARMLESS, ids=str)
async def test_what_is_merely_odd_is_relayed(fleet: Fleet, client: httpx.AsyncClient, fault: Fault) -> None:
    replies = []
    for shape in fault.shapes:
        await fleet.even_out()
        await fleet.a.order(fault.kind, **fault.details)
        reply = await ask(client, shape)
        replies.append(reply)
        assert (reply.status_code, answer_of(shape, reply)[:2]) == (200, "a "), shape

    for row in await fleet.rows(*replies):
        assert (row.outcome, row.tokens_out, row.attempts) == ("completed", TOKENS_PER_ANSWER, 1)


async def test_a_stream_whose_framing_never_ends_is_complete_with_its_terminator(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    await fleet.even_out()
    await fleet.a.order("wrong_length")

    reply = await ask(client, NATIVE_STREAM)

    assert records(reply)[-1]["done"] is True
    assert (await fleet.row(reply)).outcome == "completed"


@pytest.mark.parametrize("shape", STREAMS, ids=str)
async def test_a_first_line_without_end_costs_an_attempt(
    fleet: Fleet, client: httpx.AsyncClient, shape: Shape
) -> None:
    await fleet.even_out()
    await fleet.a.order("endless_line", size=900_000)

    reply = await ask(client, shape)

    assert answer_of(shape, reply).startswith("b ")


@pytest.mark.parametrize("shape", STREAMS, ids=str)
async def test_a_line_beyond_all_bounds_ends_the_connection_unfinished(
    fleet: Fleet, client: httpx.AsyncClient, shape: Shape
) -> None:
    await fleet.even_out()
    await fleet.a.order("endless_line", size=16 << 20)

    with pytest.raises(httpx.RemoteProtocolError):
        await ask(client, shape)

    (seen,) = await fleet.a.requests(ended=1)
    assert seen.outcome == "client_closed"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
async def test_two_backends_that_answer_500_stop_a_poison_request(
    fleet: Fleet, client: httpx.AsyncClient, shape: Shape
) -> None:
    await fleet.even_out()
    for backend in (fleet.a, fleet.b):
        await backend.order("status", status=500, body=CANARY)

    reply = await ask(client, shape)

    assert (reply.status_code, is_refusal(shape, reply)) == (502, True)
    assert tells_nothing(reply)
    assert await fleet.attempts() == "ab"
    row = await fleet.row(reply)
    assert (row.outcome, row.tokens_in, row.tokens_out) == ("upstream_failed", 0, 0)
    assert row.attempted_backends == ["a", "b"]


def given_up(shape: Shape, text: str) -> dict[str, Any]:
    """Return what a backend sends whose model repeated itself until it was stopped: no end, and no counts."""
    nothing = {"input_tokens": 0, "output_tokens": 0}
    if shape == RESPONSES_WHOLE:
        parts = [{"type": "output_text", "text": text}]
        return {"status": "completed", "output": [{"type": "message", "content": parts}], "usage": nothing}
    if shape == ANTHROPIC_WHOLE:
        parts = [{"type": "text", "text": text}]
        return {"type": "message", "content": parts, "stop_reason": None, "usage": nothing}
    message = {"role": "assistant", "content": text}
    if shape == NATIVE_WHOLE:
        return {"model": MODEL, "message": message, "done": False}
    return {"model": MODEL, "choices": [{"message": message, "finish_reason": None}], "usage": ZEROS}


async def test_an_answer_that_was_given_up_is_charged_and_no_fault_of_its_backend(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    await fleet.rest()
    text = CANARY * 100
    replies = []
    for shape in WHOLES:
        body = json.dumps(given_up(shape, text))
        await fleet.a.order("status", status=200, raw_body=body, content_type="application/json")
        reply = await ask(client, shape)
        replies.append(reply)
        assert (reply.status_code, is_refusal(shape, reply)) == (502, True), shape
        assert reply.headers["x-should-retry"] == "false"
        assert tells_nothing(reply)

    assert await fleet.attempts() == "a" * len(WHOLES)
    for row in await fleet.rows(*replies):
        assert (row.outcome, row.attempts, row.estimated) == ("upstream_truncated", 1, True)
        assert (row.tokens_in, row.tokens_out) == (PROMPT_ESTIMATE, len(text) // 4)


async def test_an_answer_given_up_before_its_first_word_costs_an_attempt(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    await fleet.even_out()
    body = json.dumps(given_up(NATIVE_WHOLE, ""))
    await fleet.a.order("status", status=200, raw_body=body, content_type="application/json")
    reply = await ask(client, NATIVE_WHOLE)

    assert answer_of(NATIVE_WHOLE, reply).startswith("b ")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
async def test_a_model_that_is_gone_everywhere_is_refused_like_a_forbidden_one(
    fleet: Fleet, gateway: Gateway, client: httpx.AsyncClient, shape: Shape
) -> None:
    forbidden_key = await gateway.tenant("qwen3:*")
    async with gateway.client(forbidden_key) as other:
        forbidden = await ask(other, shape)
    await fleet.even_out()
    for backend in (fleet.a, fleet.b, fleet.c):
        await backend.order("missing_model")

    gone = await ask(client, shape)
    absent = await ask(client, shape, "nobody-hosts-this")

    assert gone.status_code == absent.status_code == forbidden.status_code == 403
    assert words_of(gone) == words_of(absent) == words_of(forbidden)
    assert is_refusal(shape, gone)
    assert MODEL not in gone.text
    row = await fleet.row(gone)
    assert (row.outcome, row.attempts, row.tokens_in, row.tokens_out) == ("rejected_upstream", 3, 0, 0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
async def test_case_37_busy_everywhere_is_told_with_a_time_to_come_back(
    fleet: Fleet, client: httpx.AsyncClient, shape: Shape
) -> None:
    await fleet.even_out()
    for backend in (fleet.a, fleet.b, fleet.c):
        await backend.order("busy", body=f"server busy {CANARY}")

    reply = await ask(client, shape)

    assert (reply.status_code, is_refusal(shape, reply)) == (503, True)
    assert RETRY_AFTER_S[0] <= int(reply.headers["retry-after"]) <= RETRY_AFTER_S[1]
    assert tells_nothing(reply)
    assert (await fleet.row(reply)).outcome == "upstream_failed"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
async def test_case_37_when_every_attempt_failed_the_client_gets_a_502(
    fleet: Fleet, client: httpx.AsyncClient, shape: Shape
) -> None:
    await fleet.even_out()
    await fleet.a.order("status", status=401, body=CANARY)
    await fleet.b.order("garbage")
    await fleet.c.order("redirect", location=SECRET_PLACE)

    reply = await ask(client, shape)

    assert (reply.status_code, is_refusal(shape, reply)) == (502, True)
    assert tells_nothing(reply)
    row = await fleet.row(reply)
    assert (row.outcome, row.attempted_backends) == ("upstream_failed", ["a", "b", "c"])


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (400, f"invalid message content {CANARY}"),
        (500, f'option "num_keep" must be of type integer {CANARY}'),
    ],
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
async def test_case_38_the_client_s_own_mistake_does_not_walk_the_fleet(
    fleet: Fleet, client: httpx.AsyncClient, shape: Shape, status: int, text: str
) -> None:
    await fleet.even_out()
    await fleet.a.order("status", status=status, body=text)

    reply = await ask(client, shape)

    assert (reply.status_code, is_refusal(shape, reply)) == (400, True)
    assert tells_nothing(reply)
    assert await fleet.attempts() == "a"
    row = await fleet.row(reply)
    assert (row.outcome, row.tokens_in, row.tokens_out) == ("rejected_upstream", 0, 0)


async def test_a_crashed_embedder_is_not_taken_for_the_client_s_mistake(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    await fleet.even_out()
    await fleet.a.order("status", status=400, body=f"do embedding request: EOF {CANARY}")

    reply = await client.post("/api/embed", json={"model": EMBEDDER, "input": "one"})

    assert reply.status_code == 200
    assert (await fleet.row(reply)).attempted_backends == ["a", "b"]


async def test_case_39_a_model_that_loads_slowly_is_waited_for(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    await fleet.c.change(load_ms=700)
    await fleet.c.unload()

    replies = await asyncio.gather(*(ask(client, NATIVE_STREAM, LONER) for _ in range(2)))

    assert [reply.status_code for reply in replies] == [200, 200]
    assert await fleet.attempts() == "cc"


async def test_a_redirect_is_never_followed(fleet: Fleet, client: httpx.AsyncClient) -> None:
    await fleet.even_out()
    await fleet.a.order("redirect", location=f"{fleet.c.url}/api/chat")

    await ask(client, NATIVE_WHOLE, COMMON)

    assert await fleet.attempts() == "ab"


async def test_a_missing_model_is_looked_for_again_at_once(fleet: Fleet, client: httpx.AsyncClient) -> None:
    await fleet.c.host("other:1b")
    gone = await ask(client, OPENAI_WHOLE, LONER)
    assert gone.status_code == 403

    await fleet.rest()

    names = {model["name"] for model in (await client.get("/api/tags")).json()["models"]}
    assert LONER not in names
    await fleet.c.reset()
    await fleet.rest()


async def test_no_fault_is_left_without_a_test() -> None:
    later = DYING_AFTER_A_RECORD + ENDING_WITHOUT_AN_END + SAYING_AN_ERROR
    tested = {fault.kind for fault in BEFORE_THE_FIRST_RECORD + HARMLESS + later}
    tested |= {"endless_line", "wrong_length", "refuse"}

    assert tested == set(get_args(Kind))
