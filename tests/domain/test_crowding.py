"""Bodies that hold millions of values are refused before anything is made of them."""

import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.crowding import MAX_COMMAS, MAX_CONTAINERS, refuse_crowded
from domain.errors import BadRequest
from tests.support.counts import count


def is_crowded(text: bytes) -> bool:
    steps = 0
    try:
        for _ in refuse_crowded(text):
            steps += 1
    except BadRequest:
        return True
    finally:
        assert steps >= min(1, len(text) // 65_536)
    return False


def containers(number: int, *, kind: bytes = b"[]") -> bytes:
    """Return a list with so many containers, itself included."""
    return b"[" + b",".join([kind] * (number - 1)) + b"]"


@pytest.mark.parametrize("kind", [b"[]", b"{}"])
def test_as_many_lists_and_objects_as_anybody_means_are_taken(kind: bytes) -> None:
    assert not is_crowded(containers(MAX_CONTAINERS, kind=kind))
    assert is_crowded(containers(MAX_CONTAINERS + 1, kind=kind))


def test_as_many_values_as_anybody_means_are_taken() -> None:
    assert not is_crowded(b"[" + b"1," * MAX_COMMAS + b"1]")
    assert is_crowded(b"[" + b"1," * (MAX_COMMAS + 1) + b"1]")


@pytest.mark.parametrize(
    "said", ["[]{}," * 700_000, '"[]",' * 700_000, "\\[" * 700_000, "\\" * 65_535 + '"' + "[" * 200_000]
)
def test_a_text_may_hold_what_it_likes(said: str) -> None:
    assert not is_crowded(json.dumps({"messages": [{"content": said}, {"content": said}]}).encode())


@given(st.integers(0, 2**32))
@settings(max_examples=count(10, 5_000), deadline=None)
def test_what_stands_in_texts_is_told_from_what_stands_outside(seed: int) -> None:
    random = Random(seed)
    texts = [
        "".join(random.choices('\\"[{,x', (1, 1, 3, 3, 3, 9), k=random.randint(0, 60_000))) for _ in range(20)
    ]
    spare = MAX_CONTAINERS - len(texts) - 1
    body = json.dumps([[text] for text in texts])[:-1]

    assert not is_crowded(f"{body},{','.join(['[]'] * spare)}]".encode())
    assert is_crowded(f"{body},{','.join(['[]'] * (spare + 1))}]".encode())
