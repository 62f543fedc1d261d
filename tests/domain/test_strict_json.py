import json
import sys

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import BadRequest
from domain.strict_json import MAX_DEPTH, KnownFields, go_fold, parse_object
from tests.support.counts import count

pytestmark = pytest.mark.parser

KNOWN = KnownFields(frozenset({"model", "stream", "keep_alive", "options"}))
KELVIN = "\u212a"
LONG_S = "\u017f"


def nested(opening: str, closing: str, depth: int) -> bytes:
    """Return an object whose deepest container lies at `depth`, the object itself being level 1."""
    return f'{{"a":{opening * (depth - 1)}1{closing * (depth - 1)}}}'.encode()


REFUSED = {
    "empty": b"",
    "blank": b" \n\t",
    "no object": b"[]",
    "a string": b'"model"',
    "null": b"null",
    "cut": b'{"model":"a"',
    "byte order mark": b'\xef\xbb\xbf{"model":"a"}',
    "UTF-16": '{"model":"a"}'.encode("utf-16"),
    "invalid UTF-8": b'{"model":"\xff"}',
    "invalid UTF-8 in a subtree": b'{"messages":[{"content":"\xc3\x28"}]}',
    "encoded surrogate": b'{"model":"\xed\xa0\x80"}',
    "lone high surrogate": rb'{"model":"\ud800"}',
    "lone low surrogate": rb'{"messages":["\udc00"]}',
    "surrogates in the wrong order": rb'{"a":"\ude00\ud83d"}',
    "lone surrogate in a key": rb'{"a":{"\ud800":1}}',
    "raw control character": b'{"model":"a\x00"}',
    "second value": b'{"model":"a"}{"model":"b"}',
    "second value after space": b'{"model":"a"} {}',
    "junk after the object": b'{"model":"a"}x',
    "NUL after the object": b'{"model":"a"}\x00',
    "key twice": b'{"model":"a","model":"b"}',
    "key twice, then null": b'{"model":"a","model":null}',
    "key twice, once escaped": rb'{"model":"a","\u006dodel":"b"}',
    "key twice below": b'{"a":[{"b":{"c":1,"c":2}}]}',
    "unknown key twice": b'{"x":1,"x":1}',
    "title case": b'{"model":"a","Model":"b"}',
    "only the wrong case": b'{"MODEL":"a"}',
    "long s": f'{{"model":"a","{LONG_S}tream":false}}'.encode(),
    "Kelvin sign": f'{{"model":"a","{KELVIN}eep_alive":0}}'.encode(),
    "escaped Kelvin sign": rb'{"model":"a","\u212aeep_alive":0}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "minus Infinity": b'{"a":-Infinity}',
    "float too large": b'{"a":1e400}',
    "negative float too large": b'{"a":-1e400}',
    "integer too large": b'{"a":' + b"9" * 400 + b"}",
    "integer beyond the interpreter's limit": b'{"a":' + b"9" * 10_000 + b"}",
    "too deep in lists": nested("[", "]", MAX_DEPTH + 1),
    "too deep in objects": nested('{"a":', "}", MAX_DEPTH + 1),
    "9,000 deep": nested("[", "]", 9_000),
    "1,000,000 opening brackets": b"[" * 1_000_000,
    "200,000 opening objects": b'{"a":' * 200_000,
    "single quotes": b"{'model':'a'}",
    "comment": b'{"model":"a"} // x',
    "comma at the end": b'{"model":"a",}',
    "plus sign": b'{"a":+1}',
    "leading zero": b'{"a":01}',
    "wide digits": '{"a":\uff11}'.encode(),
    "no-break space": '{"a":\u00a01}'.encode(),
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
def test_what_could_be_read_in_two_ways_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_object(body, KNOWN)

    assert refusal.value.message


ACCEPTED = {
    "empty object": b"{}",
    "space around": b' \r\n{"model": "a"}\t ',
    "pair of surrogates": rb'{"model":"\ud83d\ude00"}',
    "escaped backslash before ud800": rb'{"model":"\\ud800"}',
    "deep lists": nested("[", "]", MAX_DEPTH),
    "deep objects": nested('{"a":', "}", MAX_DEPTH),
    "many containers, none deep": b'{"a":[' + b",".join([b"{}"] * 500) + b"]}",
    "brackets in text": b'{"a":"' + b"[{" * 200 + b'"}',
    "large numbers": b'{"a":1e308,"b":' + b"9" * 308 + b"}",
    "unknown key like a known one": b'{"models":1,"stre am":2,"m\xc3\xb6del":3}',
    "equal keys in different objects": b'{"a":{"x":1},"b":{"x":1}}',
}


@pytest.mark.parametrize("body", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_what_has_one_meaning_is_read(body: bytes) -> None:
    assert parse_object(body, KNOWN).values == json.loads(body)


def test_values_keep_the_clients_bytes() -> None:
    read = parse_object(rb'{"model" : "\u006c" , "options":{"a" : 1.50, "b":[ 1,2 ]} }', KNOWN)

    assert bytes(read.raw["model"]) == rb'"\u006c"'
    assert bytes(read.raw["options"]) == b'{"a" : 1.50, "b":[ 1,2 ]}'


def test_unknown_keys_are_counted() -> None:
    assert parse_object(b'{"model":"a","x":1,"y":2}', KNOWN).unknown == 2


@pytest.mark.parametrize(
    ("refused", "sentence"),
    [
        ("blank", "the body is empty; send a JSON object"),
        ("no object", "the body must be a JSON object"),
        ("invalid UTF-8", "the body is not valid UTF-8 at byte 10"),
        ("cut", "the body is not valid JSON at character 12"),
        ("second value after space", "the body goes on after its JSON value, at character 14"),
        ("key twice", "the body repeats a key inside one JSON object; send each key once"),
        ("title case", "write the field name 'model' exactly like this, in lower case"),
        ("lone high surrogate", "the body holds an escape sequence that is not a whole character"),
        ("NaN", "the body holds NaN, which is not JSON"),
        ("float too large", "the body holds a number that is too large"),
        ("integer too large", "the body holds a number that is too large"),
        ("too deep in lists", "the body is nested deeper than 64 levels"),
        ("9,000 deep", "the body is nested deeper than 64 levels"),
    ],
)
def test_a_refusal_says_what_is_wrong_with_the_body(refused: str, sentence: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_object(REFUSED[refused], KNOWN)

    assert refusal.value.message == sentence


def test_a_refusal_repeats_nothing_of_the_body() -> None:
    for body in (b'{"a":"secret prompt","a":1}', b'{"a":"secret prompt', b'{"secret prompt":1} x'):
        with pytest.raises(BadRequest) as refusal:
            parse_object(body, KNOWN)

        assert "secret" not in refusal.value.message


def test_a_read_object_shows_its_keys_and_no_prompt() -> None:
    assert repr(parse_object(b'{"model":"secret","a":1}', KNOWN)) == "StrictObject(keys=['a', 'model'])"


def test_exactly_the_variants_that_go_folds_are_refused() -> None:
    letters = [chr(code) for code in range(1, sys.maxunicode + 1)]
    folds = go_fold("\0".join(letters)).split("\0")

    assert [letter for letter, fold in zip(letters, folds, strict=True) if fold == "k"] == ["K", "k", KELVIN]
    assert [letter for letter, fold in zip(letters, folds, strict=True) if fold == "s"] == ["S", "s", LONG_S]
    assert all(
        letter.isascii() or letter in {KELVIN, LONG_S} or not fold.isascii()
        for letter, fold in zip(letters, folds, strict=True)
    )


def test_names_that_differ_in_case_only_cannot_both_be_known() -> None:
    with pytest.raises(ValueError, match=r"^field names must differ in more than case$"):
        KnownFields(frozenset({"model", "Model"}))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=5), st.booleans())
@settings(max_examples=count(200, 20_000), deadline=None)
def test_any_object_with_plain_keys_survives_unchanged(value: dict[str, object], ascii_only: bool) -> None:  # noqa: FBT001
    body = json.dumps(value, ensure_ascii=ascii_only).encode()

    read = parse_object(body, KnownFields(frozenset()))

    assert read.values == value
    assert {name: json.loads(bytes(raw)) for name, raw in read.raw.items()} == value


@given(
    st.binary(max_size=200)
    | st.text(st.sampled_from('{}[]":,\\ud8emolMK10-.\u212a\u017f'), max_size=60).map(str.encode)
)
@settings(max_examples=count(1_000, 200_000), deadline=None)
def test_random_bytes_are_read_or_refused_and_nothing_else(body: bytes) -> None:
    try:
        read = parse_object(body, KNOWN)
    except BadRequest:
        return
    assert msgspec.json.decode(msgspec.json.encode(read.raw)) == read.values


@given(
    st.text(st.sampled_from('a\ud83d\ude00\\"'), min_size=1, max_size=6),
    st.sampled_from(('{"%s":1}', '{"a":["%s"]}')),
)
@settings(max_examples=count(300, 50_000), deadline=None)
def test_half_a_character_is_refused_wherever_it_stands(text: str, shape: str) -> None:
    body = (shape % json.dumps(text)[1:-1]).encode()
    whole = json.loads(body)
    try:
        json.dumps(whole, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        with pytest.raises(BadRequest):
            parse_object(body, KNOWN)
    else:
        assert parse_object(body, KNOWN).values == whole


@given(st.binary(max_size=3), st.integers(0, 80))
@settings(max_examples=count(500, 100_000), deadline=None)
def test_a_damaged_body_is_read_or_refused_and_nothing_else(damage: bytes, place: int) -> None:
    body = rb'{"model":"a","messages":[{"role":"user","content":"\u00e9 1"}],"options":{"seed":1.5e3}}'

    try:
        parse_object(body[:place] + damage + body[place + 1 :], KNOWN)
    except BadRequest:
        return
