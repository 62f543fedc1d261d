"""The model in a path: which bytes it may be written with."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.gateway.routes import model_id
from domain.errors import UnknownPath
from tests.support.counts import count

pytestmark = pytest.mark.parser


@pytest.mark.parametrize(
    ("tail", "model"),
    [
        (b"llama3.2", "llama3.2"),
        (b"llama3.2:latest", "llama3.2:latest"),
        (b"llama3.2%3Alatest", "llama3.2:latest"),
        (b"llama3.2%3alatest", "llama3.2:latest"),
        (b"ns/model", "ns/model"),
        (b"ns%2Fmodel", "ns/model"),
        (b"ns%2fmodel", "ns/model"),
        (b"hf.co/user/repo:Q4_K_M", "hf.co/user/repo:Q4_K_M"),
        (b"hf.co%2Fuser/repo%3AQ4_K_M", "hf.co/user/repo:Q4_K_M"),
        (b"LLAMA3.2", "LLAMA3.2"),
    ],
)
def test_a_model_may_have_several_segments_and_two_escapes(tail: bytes, model: str) -> None:
    assert model_id(b"/v1/models/" + tail) == model


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"%6Clama3.2",
        b"llama%2e3",
        b"a%20b",
        b"a b",
        b"a%00",
        b"a%252Fb",
        b"a%",
        b"a%2",
        b"a%zz",
        b"a;b",
        b"a@b",
        b"a+b",
        b"a?b",
        b"a#b",
        b"a\\b",
        b"a\n",
        b"\xc3\xa9",
        b"%C3%A9",
    ],
)
def test_t22_any_other_byte_or_escape_is_no_path(tail: bytes) -> None:
    with pytest.raises(UnknownPath):
        model_id(b"/v1/models/" + tail)


@given(st.binary(max_size=30) | st.text(st.sampled_from("aZ0._:/-%2F3A\u00e9"), max_size=30).map(str.encode))
@settings(max_examples=count(500, 50_000), deadline=None)
def test_any_path_names_a_model_in_plain_letters_or_nothing(tail: bytes) -> None:
    try:
        model = model_id(b"/v1/models/" + tail)
    except UnknownPath:
        return
    assert "%" not in model
    assert model_id(b"/v1/models/" + model.encode()) == model
