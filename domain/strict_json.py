"""Request bodies read so strictly that Ollama's decoder cannot understand them differently.

Go matches object keys without regard to case, lets the last of several equal keys win, merges repeated
objects and ignores what follows the first value. Each of these would let a body mean one thing here and
another there, so each is refused; what remains has one meaning for every JSON reader.

Two passes, both in C: the standard library's scanner sees every pair of every object (it alone can report
repeated keys), msgspec cuts the top level into the client's own bytes and finds halves of characters.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import NoReturn

import msgspec

from domain.errors import BadRequest

MAX_DEPTH = 64
_TOO_DEEP = f"the body is nested deeper than {MAX_DEPTH} levels"

_CONTAINERS = (dict, list)
_LONGEST_INTEGER = 308
"""Digits that every 64-bit float can hold; Go reads untyped numbers as such floats."""


class _RefusedError(ValueError):
    """Carries our own sentence out of the scanner's callbacks."""


class KnownFields:
    """The exact spellings of the keys of one object that mean something.

    Parameters
    ----------
    names
        Names as Ollama declares them.

    Raises
    ------
    ValueError
        Two names differ in case only, so Ollama could not tell them apart.
    """

    __slots__ = ("_by_fold", "names")

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names
        self._by_fold = {go_fold(name): name for name in names}
        if len(self._by_fold) != len(names):
            raise ValueError("field names must differ in more than case")

    def count_unknown(self, found: Mapping[str, object]) -> int:
        """Count the keys that mean nothing to Ollama.

        Raises
        ------
        BadRequest
            A key is not a known one, but Ollama would read it as one (`Model`, `MODEL`, long s in `stream`).
        """
        unknown = found.keys() - self.names
        for key in unknown:
            if (meant := self._by_fold.get(go_fold(key))) is not None:
                raise BadRequest(f"write the field name '{meant}' exactly like this, in lower case")
        return len(unknown)


class StrictObject(msgspec.Struct, frozen=True):
    """A JSON object of the client: decoded values to look at, exact bytes per top-level key to pass on.

    `unknown` counts its top-level keys that mean nothing.
    """

    values: dict[str, object]
    raw: dict[str, msgspec.Raw]
    unknown: int

    def __repr__(self) -> str:
        """Name the keys only: values are prompts."""
        return f"StrictObject(keys={sorted(self.values)!r})"


def go_fold(key: str) -> str:
    """Return the form in which Go's decoder compares a key with ASCII field names.

    Beyond ASCII case, exactly two characters fold into ASCII letters: the Kelvin sign and the long s.
    """
    return key.lower().replace("\u017f", "s")


def _itself(_: str | bytes, at: int) -> int:
    return at


def parse_object(
    body: bytes, known: KnownFields, *, position: Callable[[str | bytes, int], int] = _itself
) -> StrictObject:
    """Read a body that is one JSON object and nothing else.

    `position` says which place to name for one in the body, or in its characters, where these are not all that the
    client sent.

    Raises
    ------
    BadRequest
        The body is empty, not UTF-8 (a byte order mark included), not JSON, no object, repeats a key at any
        level, spells a known key in another case, goes on after the object, is nested deeper than
        `MAX_DEPTH`, or holds a lone surrogate or a number beyond a 64-bit float. Nothing else is ever raised.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        at = position(body, error.start)
        raise BadRequest(f"the body is not valid UTF-8 at byte {at}") from None
    values = _scan(text, position)
    if not isinstance(values, dict):
        raise BadRequest("the body must be a JSON object")
    _refuse_deep(values)
    unknown = known.count_unknown(values)
    return StrictObject(values, split_raw(body), unknown)


def split_raw(body: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """Cut an object that was read strictly into its values' exact bytes.

    Raises
    ------
    BadRequest
        An escape is half a character, which the standard library's reader lets pass.
    """
    try:
        return _RAW.decode(body)
    except (msgspec.DecodeError, RecursionError):
        raise BadRequest("the body holds an escape sequence that is not a whole character") from None


def _scan(text: str, position: Callable[[str | bytes, int], int]) -> object:
    if not text or text.isspace():
        raise BadRequest("the body is empty; send a JSON object")
    try:
        return _SCANNER.decode(text)
    except json.JSONDecodeError as error:
        at = position(text, error.pos)
        if error.msg == "Extra data":
            raise BadRequest(f"the body goes on after its JSON value, at character {at}") from None
        raise BadRequest(f"the body is not valid JSON at character {at}") from None
    except _RefusedError as refusal:
        raise BadRequest(str(refusal)) from None
    except (RecursionError, MemoryError):
        raise BadRequest(_TOO_DEEP) from None


def _refuse_deep(values: dict[str, object]) -> None:
    level: list[dict[str, object] | list[object]] = [values]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, _CONTAINERS)
        ]
        if not level:
            return
    raise BadRequest(_TOO_DEEP)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _RefusedError("the body repeats a key inside one JSON object; send each key once")
    return found


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _RefusedError("the body holds a number that is too large")
    return number


def _bounded(digits: str) -> int:
    if len(digits) > _LONGEST_INTEGER:
        raise _RefusedError("the body holds a number that is too large")
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    raise _RefusedError(f"the body holds {name}, which is not JSON")


_SCANNER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_int=_bounded, parse_constant=_no_constant
)
_RAW = msgspec.json.Decoder(dict[str, msgspec.Raw])
