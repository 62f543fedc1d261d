"""Where a key may stand in a request, and what is refused."""

from base64 import b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.credentials import MAX_CARRIER_BYTES, presented_key
from domain.errors import Unauthenticated
from tests.support.counts import count

pytestmark = pytest.mark.parser

KEY = b"nng_abcdefgh_secret_check0"
OTHER = b"nng_abcdefgh_secret_check1"


def basic(user: bytes, password: bytes) -> bytes:
    return b"Basic " + b64encode(user + b":" + password)


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [
        ([b"Bearer " + KEY], []),
        ([b"bearer " + KEY], []),
        ([b"BEARER " + KEY], []),
        ([b"BeArEr   " + KEY + b" "], []),
        ([b"Bearer \t" + KEY + b"\t"], []),
        ([], [KEY]),
        ([], [b" " + KEY + b"\t"]),
        ([basic(b"", KEY)], []),
        ([basic(b"anybody", KEY)], []),
        ([b"basic" + basic(b"u", KEY)[5:]], []),
        ([b"BASIC" + basic(b"u", KEY)[5:]], []),
        ([b"Bearer " + KEY], [KEY]),
        ([b"Bearer " + KEY, b"bearer " + KEY], []),
        ([b"Bearer " + KEY, basic(b"u", KEY)], [KEY, KEY]),
    ],
)
def test_t01_one_key_is_found_wherever_it_stands(authorization: list[bytes], x_api_key: list[bytes]) -> None:
    assert presented_key(authorization, x_api_key) == KEY
    assert presented_key(authorization, x_api_key, KEY) == KEY


def test_a_key_in_the_path_is_enough() -> None:
    assert presented_key([], [], KEY) == KEY


@pytest.mark.parametrize("path_key", [OTHER, b"", KEY + b"%00", b"x" * (MAX_CARRIER_BYTES + 1)])
def test_a_key_in_the_path_that_differs_from_the_header_s_is_none(path_key: bytes) -> None:
    with pytest.raises(Unauthenticated):
        presented_key([b"Bearer " + KEY], [], path_key)


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [
        ([], []),
        ([b""], []),
        ([b"Bearer"], []),
        ([b"Bearer "], []),
        ([b"Bearer" + KEY], []),
        ([b"Bearer\t" + KEY], []),
        ([KEY], []),
        ([b"Token " + KEY], []),
        ([b"Digest username=" + KEY], []),
        ([b"ssh-ed25519:c2ln"], []),
        ([], [b""]),
        ([], [b"   "]),
        ([b"Basic not base64!"], []),
        ([b"Basic !" + b64encode(b"u:" + KEY)], []),
        ([b"Basic " + b64encode(b"u:" + KEY).replace(b"b", b"b\n", 1)], []),
        ([b"Basic " + b64encode(KEY)], []),
        ([b"Basic " + b64encode(b"u:" + KEY)[:-1] + b"\xff"], []),
        ([basic(KEY, b"")], []),
        ([b"Basic"], []),
        ([b"Bearer " + KEY, b"Bearer " + OTHER], []),
        ([b"Bearer " + KEY], [OTHER]),
        ([basic(b"u", OTHER)], [KEY]),
        ([], [KEY, OTHER]),
        ([b"Bearer " + KEY, b"Token x"], []),
        ([b"Bearer "], [KEY]),
        ([b"Bearer " + KEY], [b""]),
    ],
)
def test_t01_no_key_a_malformed_one_or_two_different_ones_are_refused(
    authorization: list[bytes], x_api_key: list[bytes]
) -> None:
    with pytest.raises(Unauthenticated):
        presented_key(authorization, x_api_key)


def test_the_password_of_basic_may_hold_colons() -> None:
    assert presented_key([basic(b"u", b"a:b")], []) == b"a:b"


@pytest.mark.parametrize("key", [b"nng_\0key", b"\xc3\xa9\xff", "ключ".encode(), b"' OR 1=1 --"])
def test_t01_odd_bytes_come_through_unchanged_for_the_checksum_to_refuse(key: bytes) -> None:
    assert presented_key([b"Bearer " + key], [key]) == key


@pytest.mark.parametrize("size", [MAX_CARRIER_BYTES + 1, 400 * 1024])
def test_t01_a_carrier_of_more_than_512_bytes_is_refused(size: int) -> None:
    huge = b"x" * size

    for authorization, x_api_key in (
        ([b"Bearer " + huge], []),
        ([basic(b"u", huge)], []),
        ([basic(huge, KEY)], []),
        ([], [huge]),
    ):
        with pytest.raises(Unauthenticated):
            presented_key(authorization, x_api_key)


def test_t01_512_bytes_are_still_read() -> None:
    bearer = b"Bearer ".ljust(MAX_CARRIER_BYTES, b"x")

    assert presented_key([], [b"x" * MAX_CARRIER_BYTES]) == b"x" * MAX_CARRIER_BYTES
    assert presented_key([bearer], []) == bearer.removeprefix(b"Bearer ")


CARRIED = st.binary(max_size=40) | st.tuples(
    st.sampled_from([b"Bearer ", b"bearer\t", b"Basic ", b"BASIC", b"Digest "]),
    st.binary(max_size=40).map(b64encode),
).map(b"".join)


@given(st.lists(CARRIED, max_size=3), st.lists(CARRIED, max_size=3), st.none() | CARRIED)
@settings(max_examples=count(500, 50_000), deadline=None)
def test_t01_whatever_is_carried_is_one_short_key_or_refused(
    authorization: list[bytes], x_api_key: list[bytes], path_key: bytes | None
) -> None:
    try:
        key = presented_key(authorization, x_api_key, path_key)
    except Unauthenticated:
        return
    assert 0 < len(key) <= MAX_CARRIER_BYTES
    assert {value.strip() for value in x_api_key} <= {key}
    assert path_key in {None, key}
