"""A body of which texts were lifted is read exactly as the whole one: the same object, or the same refusal."""

import json
import tracemalloc
from base64 import b64encode
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import BadRequest
from domain.lifting import SHORTEST_BYTES, STEP_BYTES, lift, parse_lifted
from domain.policies import Policy
from domain.requests import parse_count, parse_request, rebuild, rebuild_in_pieces
from domain.routes import inference_routes
from domain.strict_json import KnownFields, StrictObject, parse_object
from tests.support.counts import count
from tests.support.hostile_bodies import PATHS, hostile_body
from tests.support.lifting import lifted
from tests.support.pictures import jpeg, png, webp

ROUTES = inference_routes()
KNOWN = KnownFields(frozenset({"model", "messages", "images"}))
POLICY = Policy({}, default_output_cap=100)
LONG = "iVBORw0KGgo" * 400
assert len(LONG) >= SHORTEST_BYTES

Outcome = StrictObject | str


def plainly(body: bytes) -> Outcome:
    try:
        return parse_object(body, KNOWN)
    except BadRequest as refusal:
        return refusal.message


def after_lifting(body: bytes, *, shortest: int = SHORTEST_BYTES) -> Outcome:
    try:
        return parse_lifted(lifted(body, shortest=shortest), KNOWN)
    except BadRequest as refusal:
        return refusal.message


def texts(body: bytes, *, shortest: int = 4) -> list[str]:
    """Return what is lifted."""
    return list(lifted(body, shortest=shortest).texts.values())


FRAGMENTS = (
    *(
        '"',
        '"',
        '"AAAA"',
        '"AA/+=="',
        '"data:image/png;base64,AAAA"',
        '"data:AAAA"',
        '"data:;base64,A A"',
        "AAAA",
    ),
    *(
        '\\"',
        "\\\\",
        "\\/",
        '"A\\/A"',
        '"\\/"',
        '"A\\\\/A"',
        '"A\\',
        "\\u0041",
        "\\n",
        "\x00",
        "\n",
        " ",
        " " * 20,
    ),
    *(
        ",",
        ",",
        ":",
        ":",
        "{",
        "}",
        "[",
        "]",
        '{"a":',
        '"a":',
        "1",
        "1e400",
        "true",
        "NaN",
        "null",
        "=",
        "é",
        "\u2028",
    ),
)


@given(
    st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join),
    st.sampled_from(("%s", '{"a":%s}', '{"a":[%s]}', '{"a":"AAAA",%s}', '{"é":"AAAA","b":{"c":"%s"}}')),
    st.integers(1, 5),
)
@settings(max_examples=count(700, 500_000), deadline=None)
def test_pieces_of_json_in_any_order_are_read_alike(text: str, frame: str, shortest: int) -> None:
    body = (frame % text).encode()

    assert plainly(body) == after_lifting(body, shortest=shortest)


@given(st.integers(0, 2**32), st.integers(1, 6))
@settings(max_examples=count(1_000, 200_000), deadline=None)
def test_any_object_whole_or_damaged_is_read_alike(seed: int, shortest: int) -> None:
    random = Random(seed)
    value = {_text(random): _value(random, 3) for _ in range(random.randint(0, 4))}
    body = json.dumps(value, indent=random.choice((None, 1)), ensure_ascii=random.random() < 0.5).encode()
    if random.random() < 0.5:
        body = body.replace(b"/", b"\\/")
    if random.random() < 0.5:
        at = random.randrange(len(body))
        body = body[:at] + random.choice(DAMAGE) + body[at + 1 :]

    assert plainly(body) == after_lifting(body, shortest=shortest)


DAMAGE = (b"", b'"', b'""', b"\\", b"\\/", b"\xff", b",", b":", b"A", b" ", b"{", b"]")


def _value(random: Random, depth: int) -> object:
    kind = random.random()
    if depth and kind < 0.2:
        return [_value(random, depth - 1) for _ in range(random.randint(0, 3))]
    if depth and kind < 0.4:
        return {_text(random): _value(random, depth - 1) for _ in range(random.randint(0, 3))}
    return random.choice((None, True, 1, 1.5)) if kind < 0.5 else _text(random)


def _text(random: Random) -> str:
    if random.random() < 0.3:
        return "".join(random.choices('aA1/"\\\n é\u2028', k=random.randint(0, 6)))
    head = random.choice(("", "", "data:image/png;base64,", "data:;base64,"))
    return head + b64encode(random.randbytes(random.randint(0, 9))).decode()


@given(st.integers(0, 2**32), st.sampled_from(PATHS))
@settings(max_examples=count(400, 200_000), deadline=None)
def test_a_hostile_request_is_understood_alike_and_forwarded_in_the_same_bytes(seed: int, path: str) -> None:
    body = hostile_body(Random(seed), path)

    assert forwarded(path, body) == forwarded(path, body, shortest=1)


def forwarded(path: str, body: bytes, *, shortest: int | None = None) -> object:
    """Return what is known of a request and what is sent instead of it, or why it is refused."""
    spec = ROUTES[path]
    try:
        request = parse_request(spec, body if shortest is None else lifted(body, shortest=shortest))
        policed = POLICY.apply(request)
    except BadRequest as refusal:
        return refusal.message
    if request.is_large:
        written = b"".join(rebuild_in_pieces(request, "forwarded:latest", policed))
    else:
        written = rebuild(request, "forwarded:latest", policed)
    facts = (request.model, request.stream, request.prompt, request.dropped, request.output_cap, policed)
    return facts, written


def chat(*images: str, **fields: Any) -> bytes:
    message = {"role": "user", "content": "What is this?", "images": images}
    return json.dumps({"model": "m", "messages": [message], **fields}).encode()


SHOWN: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "/api/chat": lambda image: {"messages": [{"role": "user", "images": [image]}]},
    "/api/generate": lambda image: {"prompt": "x", "images": [image]},
    "/v1/chat/completions": lambda image: {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}],
            }
        ]
    },
    "/v1/responses": lambda image: {
        "input": [
            {"role": "user", "content": [{"type": "input_image", "image_url": f"data:;base64,{image}"}]}
        ]
    },
    "/v1/messages": lambda image: {
        "max_tokens": 9,
        "messages": [
            {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": image}}]},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {"data": image}}],
            },
        ],
    },
}


@pytest.mark.parametrize(
    "image", [png(), jpeg(640, 480, [(0xE1, 60_000)] * 3), webp(), png(60_000, 60_000), "R0lG"]
)
@pytest.mark.parametrize("path", SHOWN)
@pytest.mark.parametrize("slash", [b"/", b"\\/"])
def test_images_are_found_and_forwarded_as_without(path: str, image: str, slash: bytes) -> None:
    image = image.rstrip("=")
    image += "A" * (100_000 - len(image) % 4)
    fields = {"model": "m", "template": LONG, "format": {"title": LONG}, "tools": [LONG, {"name": LONG}]}
    body = json.dumps({**fields, **SHOWN[path](image), "options": {"stop": [LONG], "seed": 1}}).encode()
    body = body.replace(b"/", slash)

    read = lifted(body)
    assert len(read.remainder) < 2_000
    assert forwarded(path, body) == forwarded(path, body, shortest=SHORTEST_BYTES)


def test_a_count_sees_what_was_lifted() -> None:
    spec = ROUTES["/v1/messages"]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": LONG}]}).encode()

    assert parse_count(spec, lifted(body)) == parse_count(spec, body)


# what is lifted


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"a":"AAAA"}', ["AAAA"]),
        (b'{"a":"AAA"}', []),
        (b'{"a" : [ "AAAA" , "BB+/BB==" ] }', ["AAAA", "BB+/BB=="]),
        (b'{"a":"AA\\/A"}', ["AA/A"]),
        (b'{"a":"data:image/png;base64,AAAA"}', ["data:image/png;base64,AAAA"]),
        (b'{"a":%b"AAAA"%b}' % (b" " * 16, b"\n" * 16), ["AAAA"]),
        (b'{"a":%b"AAAA"}' % (b" " * 17), []),
        (b'{"a":"AAAA"%b}' % (b" " * 17), []),
        (b'{"AAAA":1}', []),
        (b'{"AAAA" :"BBBB"}', ["BBBB"]),
        (b'{"a":"AAAA\\n"}', []),
        (b'{"a":"AA AA"}', []),
        (b'{"a":"\\"AAAA"}', []),
        (b'{"a":"data:image/svg+xml,AAAA"}', []),
        (b'{"a":"AAAA', []),
        (b"AAAA", []),
        (b'"AAAA"', []),
        (b"", []),
    ],
)
def test_long_texts_in_base64_are_lifted_where_values_stand(body: bytes, found: list[str]) -> None:
    assert texts(body) == found


def test_equal_keys_are_refused_however_long_they_are() -> None:
    assert "repeats a key" in str(after_lifting(f'{{"a":{{"{LONG}":1,"{LONG}":2}}}}'.encode()))


def test_a_refusal_names_the_place_in_the_clients_own_body() -> None:
    body = f'{{"é":"{LONG}","b":["{LONG}"] x}}'

    assert after_lifting(body.encode()) == f"the body is not valid JSON at character {len(body) - 2}"
    assert (
        after_lifting(body.encode() + b"\xff") == f"the body is not valid UTF-8 at byte {len(body.encode())}"
    )


@pytest.mark.parametrize("fault", [b"\xff", b"x"])
def test_a_refusal_counts_only_what_was_lifted_before_the_place(fault: bytes) -> None:
    before, after = f'{{"a":"{LONG}","b":'.encode(), f',"c":"{LONG}"}}'.encode()

    assert after_lifting(before + fault + after) == plainly(before + fault + after)
    assert str(len(before)) in str(after_lifting(before + fault + after))


def test_every_text_of_the_length_is_lifted_wherever_it_begins() -> None:
    text = "A" * SHORTEST_BYTES
    for before in range(0, SHORTEST_BYTES, 61):
        assert texts(b'{"%b":"%b"}' % (b"x" * before, text.encode()), shortest=SHORTEST_BYTES) == [text]


def test_a_large_image_is_looked_at_in_steps_and_not_copied() -> None:
    body = chat("A" * (4 * STEP_BYTES))

    assert sum(1 for _ in lift(body)) >= 4
    request = parse_request(ROUTES["/api/chat"], lifted(body))
    tracemalloc.start()
    try:
        written = rebuild_in_pieces(request, "m", POLICY.apply(request))
        assert tracemalloc.get_traced_memory()[1] < STEP_BYTES
    finally:
        tracemalloc.stop()
    long = [piece for piece in written if isinstance(piece, memoryview)]
    assert [piece.obj is request.fields["messages"] for piece in long] == [True]


def test_every_long_field_is_a_piece_of_its_own_in_its_place() -> None:
    long = 64 * 1024
    fields = {"tools": ["x" * long], "messages": [{"role": "user", "content": "y" * long}], "stream": True}
    request = parse_request(ROUTES["/api/chat"], json.dumps({"model": "m", **fields}).encode())
    written = rebuild_in_pieces(request, "m", POLICY.apply(request))

    assert [isinstance(piece, memoryview) for piece in written] == [False, True, False, True, False]
    assert b"".join(written) == rebuild(request, "m", POLICY.apply(request))


def test_many_quotes_are_passed_in_steps() -> None:
    assert sum(1 for _ in lift(b'"' * (4 * STEP_BYTES))) >= 3


def test_a_lifted_body_shows_no_prompt() -> None:
    assert LONG[:9] not in repr(lifted(chat(LONG)))
