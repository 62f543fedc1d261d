"""Bodies are read as Go reads them."""

import pytest

from app.simulator.decode import Refusal, decode_body

KNOWN = frozenset({"model", "stream", "keep_alive", "options", "messages", "prompt"})


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b'{"model":"a"}', {"model": "a"}),
        (b'{"model":"a","Model":"b"}', {"model": "b"}),
        (b'{"Model":"b","model":"a"}', {"model": "a"}),
        (b'{"model":"a","Model":"b","model":"c"}', {"model": "c"}),
        (b'{"model":"a","model":null}', {"model": "a"}),
        (b'{"MODEL":"a"}', {"model": "a"}),
        ('{"\u212aeep_alive":0}'.encode(), {"keep_alive": 0}),
        ('{"\u017ftream":false}'.encode(), {"stream": False}),
        ('{"me\u00dfages":[]}'.encode(), {}),
        (b'{"options":{"a":1},"options":{"b":2}}', {"options": {"a": 1, "b": 2}}),
        (b'{"model":"a"} {"model":"b"}', {"model": "a"}),
        (b'{"model":"a"} junk', {"model": "a"}),
        (b'{"model":"a","unknown":1}', {"model": "a"}),
        (rb'{"model":"\ud800"}', {"model": "\ufffd"}),
    ],
)
def test_fields_match_and_merge_as_in_go(raw: bytes, body: dict[str, object]) -> None:
    assert decode_body(raw, KNOWN) == body


@pytest.mark.parametrize("raw", [b"", b"  ", b"{", b"[]", b"null", b'"x"', b"[" * 100_000])
def test_what_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        decode_body(raw, KNOWN)

    assert refused.value.status == 400
