"""Request bodies read the way Go's encoding/json reads them.

So the simulator runs the model Ollama would run, which keeps tests of the allow-list honest. Keys match
without regard to case (Unicode folding included), the last one in document order wins, a later null does not
clear an earlier value, repeated objects merge, text after the first value is ignored.
"""

import json
import re
from collections.abc import Mapping
from typing import Final

import msgspec

Body = dict[str, object]

_MERGED: Final = (b'"options"', b'"stream_options"', b'"model"')
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_GO_KINDS: Final = {
    bool: "bool",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


class Refusal(Exception):  # noqa: N818 - reads as what happened
    """The request is answered with an error status; `message` is Ollama's text."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def decode_body(raw: bytes, known: frozenset[str]) -> Body:
    """Return the known fields of a JSON object.

    Raises
    ------
    Refusal
        400 with Go's text: nothing there, not JSON, or not an object.
    """
    if not raw.strip():
        raise Refusal(400, "missing request body")
    try:
        decoded = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return _decode_slowly(raw, known)
    if not isinstance(decoded, dict):
        kind = "null" if decoded is None else _GO_KINDS[type(decoded)]
        raise Refusal(400, f"json: cannot unmarshal {kind} into Go value of type api.Request")
    if None in decoded.values() or any(key not in known for key in decoded):
        return _decode_slowly(raw, known)
    if any(raw.count(field) > 1 for field in _MERGED):
        return _decode_slowly(raw, known)
    return decoded


def _decode_slowly(raw: bytes, known: frozenset[str]) -> Body:
    """Decode with every pair kept in document order; only odd bodies come here."""
    try:
        text = raw.decode("utf-8", "replace").lstrip()
        value, _ = json.JSONDecoder(object_pairs_hook=_Pairs).raw_decode(text)
        pairs = [(key, _plain(item)) for key, item in value.pairs] if isinstance(value, _Pairs) else None
    except (json.JSONDecodeError, RecursionError) as exc:
        raise Refusal(400, f"invalid character in JSON input: {exc}") from exc
    if pairs is None:
        raise Refusal(400, "json: cannot unmarshal value into Go value of type api.Request")
    body: Body = {}
    for key, plain in pairs:
        name = _field(key, known)
        if name is None or plain is None:
            continue
        before = body.get(name)
        if isinstance(before, dict) and isinstance(plain, dict):
            before.update(plain)
        else:
            body[name] = plain
    return body


class _Pairs:
    """A JSON object with its keys as written."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        self.pairs = pairs


def _plain(value: object) -> object:
    if isinstance(value, _Pairs):
        return {key: _plain(item) for key, item in value.pairs}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\ufffd", value)
    return value


def _field(key: str, known: frozenset[str]) -> str | None:
    if key in known:
        return key
    folded = key.casefold()
    # Go folds letter by letter; casefold may turn one letter into two, which is no match there.
    return folded if folded in known and len(folded) == len(key) else None


def fold_keys(value: Mapping[str, object], known: frozenset[str]) -> Body:
    """Return the known fields of a nested struct, matched as at the top level."""
    found: Body = {}
    for key, item in value.items():
        name = _field(key, known)
        if name is not None and item is not None:
            found[name] = item
    return found


def text_field(body: Body, name: str) -> str:
    """Return a string field, "" when absent.

    Raises
    ------
    Refusal
        400 with Go's text when it has another type.
    """
    value = body.get(name, "")
    if isinstance(value, str):
        return value
    raise _mismatch(name, value, "string")


def flag_field(body: Body, name: str, *, default: bool) -> bool:
    """Return a boolean field; raises a 400 `Refusal` when it has another type."""
    value = body.get(name, default)
    if isinstance(value, bool):
        return value
    raise _mismatch(name, value, "bool")


def integer_field(body: Body, name: str) -> int | None:
    """Return an integer field; raises a 400 `Refusal` when it has another type."""
    value = body.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise _mismatch(name, value, "int")


def list_field(body: Body, name: str) -> list[object]:
    """Return a list field, empty when absent; raises a 400 `Refusal` when it has another type."""
    value = body.get(name)
    if value is None:
        return []
    if isinstance(value, list):
        return value
    raise _mismatch(name, value, "[]api.Item")


def object_field(body: Body, name: str) -> Body:
    """Return an object field, empty when absent; raises a 400 `Refusal` when it has another type."""
    value = body.get(name)
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise _mismatch(name, value, "map[string]interface {}")


def _mismatch(name: str, value: object, wanted: str) -> Refusal:
    kind = _GO_KINDS.get(type(value), "value")
    return Refusal(400, f"json: cannot unmarshal {kind} into Go struct field Request.{name} of type {wanted}")
