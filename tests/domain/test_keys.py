"""The spelling of keys, and what their digests promise."""

import base64
import hashlib
import hmac
import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from domain.keys import SECRET_CHARS, PepperRing, mint, mint_pepper, parse
from domain.values import Role

pytestmark = pytest.mark.parser

roles = st.sampled_from(Role)


@pytest.mark.parametrize(
    ("role", "shape"),
    [
        (Role.INFERENCE, r"nng_[0-9A-Za-z]{8}_[0-9A-Za-z]{30}_[0-9A-Za-z]{6}"),
        (Role.ADMIN, r"nnga_[0-9A-Za-z]{8}_[0-9A-Za-z]{30}_[0-9A-Za-z]{6}"),
    ],
)
def test_a_key_is_spelled_as_documented(role: Role, shape: str) -> None:
    assert re.fullmatch(shape, mint(role).reveal())


def test_the_secret_holds_at_least_160_random_bits() -> None:
    assert math.log2(62) * SECRET_CHARS >= 160


def test_two_keys_differ_in_id_and_secret() -> None:
    one, two = mint(Role.INFERENCE).reveal().split("_"), mint(Role.INFERENCE).reveal().split("_")

    assert one[1] != two[1]
    assert one[2] != two[2]


@given(roles)
def test_a_minted_key_is_parsed_back(role: Role) -> None:
    minted = mint(role)
    parsed = parse(minted.reveal())

    assert parsed is not None
    assert (minted.prefix, minted.role) == (parsed.prefix, parsed.role)


def test_bytes_and_text_are_parsed_alike() -> None:
    text = mint(Role.ADMIN).reveal()

    assert parse(text) == parse(text.encode())


@pytest.mark.parametrize("role", Role)
def test_every_single_wrong_character_is_noticed(role: Role) -> None:
    text = mint(role).reveal()
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_"
    wrong = [
        text[:place] + other + text[place + 1 :]
        for place in range(len(text))
        for other in alphabet
        if other != text[place]
    ]

    assert [key for key in wrong if parse(key) is not None] == []


@given(
    st.one_of(
        st.text(), st.binary(), st.from_regex(r"nnga?_[0-9A-Za-z]{8}_[0-9A-Za-z]{30}_[0-9A-Za-z]{6}\n?")
    )
)
def test_junk_is_no_key(junk: str | bytes) -> None:
    assert parse(junk) is None


@given(st.text(min_size=1))
def test_nothing_may_stand_around_a_key(extra: str) -> None:
    text = mint(Role.INFERENCE).reveal()

    assert parse(text + extra) is None
    assert parse(extra + text) is None


def test_text_that_no_bytes_can_hold_is_no_key() -> None:
    assert parse("\ud800") is None


def test_digits_of_other_scripts_are_no_digits() -> None:
    head, public_id, secret, checksum = mint(Role.INFERENCE).reveal().split("_")

    assert parse(f"{head}_{public_id}_{'٣' * len(secret)}_{checksum}") is None


def test_no_repr_shows_the_secret() -> None:
    minted = mint(Role.INFERENCE)
    secret = minted.reveal().split("_")[2]

    assert secret not in f"{minted!r} {minted} {parse(minted.reveal())!r} {[minted]}"


@given(st.binary(min_size=32, max_size=200), st.text())
@example(bytes(64), "a pepper as wide as a block of SHA-256")
@example(bytes(65), "and a wider one")
def test_a_digest_is_hmac_sha256(pepper: bytes, text: str) -> None:
    ring = PepperRing((("p", pepper),))

    assert ring.digests(text) == (hmac.digest(pepper, text.encode(), hashlib.sha256),)


def test_the_first_pepper_mints_and_all_of_them_look_up() -> None:
    old, new = mint_pepper("old"), mint_pepper("new")
    text = mint(Role.INFERENCE).reveal()
    ring = PepperRing.parse(f"{new}, {old}")

    assert ring.mint_digest(text) == ("new", PepperRing.parse(new).digests(text)[0])
    assert ring.digests(text) == (PepperRing.parse(new).digests(text) + PepperRing.parse(old).digests(text))


GOOD = base64.b64encode(bytes(range(32))).decode()


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("", "entry 1 of the key pepper must be written id:base64"),
        (GOOD, "entry 1 of the key pepper must be written id:base64"),
        (f"P 1:{GOOD}", "entry 1 of the key pepper needs an id"),
        (f"a:b:{GOOD}", "entry 1 of the key pepper is not valid base64"),
        (f"a:{GOOD},", "entry 2 of the key pepper must be written id:base64"),
        (f"a:{GOOD},a:{GOOD}", "entry 2 of the key pepper repeats an id"),
        (f"a:{GOOD}!", "entry 1 of the key pepper is not valid base64"),
        ("a:c2hvcnQ=", "entry 1 of the key pepper has 5 bytes; it needs at least 32"),
    ],
)
def test_a_wrong_pepper_is_refused_in_one_sentence(value: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        PepperRing.parse(value)


def test_a_refused_pepper_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="base64") as refusal:
        PepperRing.parse(f"a:{GOOD}!")

    assert GOOD not in str(refusal.value)
    assert refusal.value.__suppress_context__


def test_a_ring_without_peppers_is_none() -> None:
    with pytest.raises(ValueError, match=r"^at least one pepper is needed$"):
        PepperRing(())


def test_a_ring_does_not_show_its_peppers() -> None:
    assert repr(PepperRing.parse(f"a:{GOOD},b:{GOOD}")) == "PepperRing(a, b)"
