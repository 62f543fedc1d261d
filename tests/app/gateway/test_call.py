"""What the gateway reads of a request's head, and what it ignores."""

import pytest

from app.gateway.call import Call
from domain.errors import Unauthenticated

Header = tuple[bytes, bytes]


def call(*headers: Header) -> Call:
    return Call(method="POST", raw_path=b"/api/chat", headers=headers, peer="10.0.0.1", started=1.0)


def test_a_bare_call_says_nothing() -> None:
    bare = call()

    assert (bare.body_length, bare.client_request_id, bare.traceparent) == (None, None, None)
    assert (bare.content_encoding, bare.forwarded_for, bare.key_digests) == (b"identity", [], ())
    with pytest.raises(Unauthenticated):
        bare.key()


def test_a_call_knows_its_peer_and_whether_its_key_stood_in_the_path() -> None:
    in_path = Call(method="GET", raw_path=b"/", headers=(), peer=None, started=1.0, path_key=b"k")

    assert (call().peer, call().key_in_path) == ("10.0.0.1", False)
    assert (in_path.peer, in_path.key_in_path, in_path.key()) == (None, True, b"k")


def test_every_call_has_an_id_of_its_own_in_the_order_of_time() -> None:
    ids = [call().request_id for _ in range(100)]

    assert len(set(ids)) == 100
    assert ids == sorted(ids)
    assert {found.version for found in ids} == {7}


def test_the_key_is_found_in_any_of_its_headers_and_in_all_of_them() -> None:
    bearer, plain = (b"authorization", b"Bearer k"), (b"x-api-key", b"k")

    for headers in ((bearer,), (plain,), (bearer, plain)):
        assert call(*headers).key() == b"k"


def test_t01_two_authorization_headers_that_differ_are_refused() -> None:
    with pytest.raises(Unauthenticated):
        call((b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")).key()


@pytest.mark.parametrize(
    "header",
    [
        (b"api-key", b"k"),
        (b"x-goog-api-key", b"k"),
        (b"cookie", b"key=k"),
        (b"proxy-authorization", b"Bearer k"),
        (b"x-authorization", b"Bearer k"),
    ],
)
def test_t01_no_other_header_carries_a_key(header: Header) -> None:
    with pytest.raises(Unauthenticated):
        call(header).key()


@pytest.mark.parametrize("valid", [b"a", b"A-b_c.9", b"x" * 64])
def test_t15_a_clients_own_request_id_is_kept_if_it_is_plain(valid: bytes) -> None:
    assert call((b"x-request-id", valid)).client_request_id == valid.decode()


@pytest.mark.parametrize("odd", [b"", b"x" * 65, b"a b", b"a\n", b"a\r\nx: y", b"\xc3\xa9", b"a;b", b"a\0"])
def test_t15_any_other_request_id_is_ignored(odd: bytes) -> None:
    assert call((b"x-request-id", odd)).client_request_id is None


TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_traceparent_is_passed_on() -> None:
    assert call((b"traceparent", TRACE)).traceparent == TRACE


@pytest.mark.parametrize(
    "odd", [b"", b"01" + TRACE[2:], TRACE + b"-x", TRACE.upper(), TRACE[:-1], TRACE + b"\n"]
)
def test_t15_any_other_traceparent_is_ignored(odd: bytes) -> None:
    assert call((b"traceparent", odd)).traceparent is None


@pytest.mark.parametrize(("value", "length"), [(b"0", 0), (b"17", 17), (b"9" * 18, 10**18 - 1)])
def test_a_body_length_is_a_plain_number(value: bytes, length: int) -> None:
    assert call((b"content-length", value)).body_length == length


@pytest.mark.parametrize(
    "odd", [b"", b"-1", b"+1", b"1.0", b"0x1", b"1_0", b"9" * 19, "\u0661".encode(), b"1, 1"]
)
def test_t16_a_body_length_that_is_no_number_counts_as_unknown(odd: bytes) -> None:
    assert call((b"content-length", odd)).body_length is None


@pytest.mark.parametrize(
    ("value", "encoding"), [(b"GZIP", b"gzip"), (b" identity ", b"identity"), (b"a, b", b"a, b")]
)
def test_an_encoding_is_read_in_lower_case(value: bytes, encoding: bytes) -> None:
    assert call((b"content-encoding", value)).content_encoding == encoding


def test_forwarded_addresses_keep_their_order_and_others_are_ignored() -> None:
    forwarded = call(
        (b"x-forwarded-for", b"1.1.1.1, 2.2.2.2"),
        (b"x-real-ip", b"6.6.6.6"),
        (b"forwarded", b"for=7.7.7.7"),
        (b"x-forwarded-for", b"3.3.3.3"),
    )

    assert forwarded.forwarded_for == [b"1.1.1.1, 2.2.2.2", b"3.3.3.3"]


@pytest.mark.parametrize(
    ("codings", "read"),
    [
        ([], None),
        ([b"chunked"], b"chunked"),
        ([b"\tChunked "], b"chunked"),
        ([b"gzip"], b"gzip"),
        ([b"Xchunked"], b"xchunked"),
        ([b"gzip, chunked"], b"gzip, chunked"),
        ([b"gzip", b"chunked"], b"gzip, chunked"),
        ([b"chunked", b"chunked"], b"chunked, chunked"),
    ],
)
def test_t19_the_end_of_a_body_is_in_doubt_under_any_coding_but_one(
    codings: list[bytes], read: bytes | None
) -> None:
    coded = call(*((b"transfer-encoding", coding) for coding in codings))

    assert coded.transfer_coding == read
    assert coded.framing_in_doubt is (read not in {None, b"chunked"})
