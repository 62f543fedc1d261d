"""The line that announces an admin key before there is a database."""

from collections.abc import Callable

import pytest

from domain.first_key import FirstKey
from domain.keys import PepperRing, mint, mint_pepper
from domain.values import Role

RING = PepperRing.parse(mint_pepper("p1"))


def test_the_line_is_read_as_it_was_written() -> None:
    first = FirstKey.of(mint(Role.ADMIN), RING)

    assert FirstKey.parse(f"{first.line()}\n") == first


def test_the_digest_is_the_one_the_key_is_found_by() -> None:
    minted = mint(Role.ADMIN)

    assert FirstKey.of(minted, RING).digest == RING.digests(minted.reveal())[0]


@pytest.mark.parametrize(
    "damage", [lambda line: line[:-1], lambda line: line.replace("nnga_", "nng_"), str.upper]
)
def test_anything_else_is_refused_without_being_repeated(damage: Callable[[str], str]) -> None:
    line = FirstKey.of(mint(Role.ADMIN), RING).line()

    with pytest.raises(ValueError, match="must be the line") as caught:
        FirstKey.parse(damage(line))

    assert line[5:] not in str(caught.value)


def test_the_digest_does_not_show_in_repr() -> None:
    first = FirstKey.of(mint(Role.ADMIN), RING)

    assert first.digest.hex() not in repr(first)
