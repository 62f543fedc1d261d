"""What is wrong with a value, in words for whoever sent it: the one place that reads the decoder's own."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from msgspec import Meta

from domain.one_line import PRINTABLE
from domain.tenants import SLUG_RULE

WORD: Final = r"^[\x21-\x7e]+$(?!\n)"
SLUG_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
TIME: Final = "a time with its zone, such as 2027-06-30T00:00:00Z"
IN_ADDRESS: Final = "; write + as %2B in an address"

_KINDS: Final = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
    "datetime": TIME,
    "uuid": "an id",
}
_PATTERNS: Final = {
    PRINTABLE: "This takes at least one character that can be seen, and no tabs or line breaks.",
    SLUG_PATTERN: f"A slug takes {SLUG_RULE}.",
    WORD: "This takes letters from a to z, digits and signs, and no blanks.",
}
_MOMENTS: Final = ("Invalid RFC3339 encoded datetime", "Expected `datetime` with a timezone component")
_BOUNDS: Final = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
_KIND: Final = re.compile(r"Expected `([^`]+)`, got `(\w+)`")
_RANGE: Final = re.compile(r"Expected `(\w+)` ([<>]=?) (\S+)")
_LENGTH: Final = re.compile(r"Expected `(\w+)` of length ([<>]=) (\d+)")


def explained(wrong: str, kind: Any, note: Meta | None = None, *, in_address: bool = False) -> str:
    """Return what a value would have to be.

    Parameters
    ----------
    wrong
        What the decoder says.
    kind
        The annotation of the field or parameter.
    note
        What is noted about it elsewhere than there.
    in_address
        Whether it is a parameter, which is text whatever it stands for.
    """
    if wrong.startswith(_MOMENTS):
        return f"This takes {TIME}{IN_ADDRESS if in_address else ''}."
    if found := _LENGTH.match(wrong):
        return _length(*found.groups())
    if found := _RANGE.match(wrong):
        return f"This takes {_KINDS.get(found[1], 'a value')} of {_BOUNDS[found[2]]} {found[3]}."
    if found := _KIND.match(wrong):
        but = "" if in_address or found[2] not in _KINDS else f", not {_KINDS[found[2]]}"
        return f"This takes {_one_of(found[1])}{but}."
    return _by_meaning(wrong, kind, (*_notes(kind), *([note] if note else ())))


def _by_meaning(wrong: str, kind: Any, notes: tuple[Meta, ...]) -> str:
    choices = tuple(_choices(kind))
    if wrong.startswith("Invalid enum value") and choices:
        return f"This takes one of {', '.join(choices)}."
    patterns = [_PATTERNS[each.pattern] for each in notes if each.pattern in _PATTERNS]
    if "matching regex" in wrong and patterns:
        return patterns[-1]
    meanings = [each.description for each in notes if each.description]
    return f"This cannot be the value. {meanings[-1] if meanings else ''}".rstrip()


def _length(kind: str, bound: str, number: str) -> str:
    if (bound, number) == (">=", "1"):
        return "This cannot be empty."
    return f"This takes {_BOUNDS[bound]} {number} {'characters' if kind == 'str' else 'entries'}."


def _one_of(kinds: str) -> str:
    *others, last = (_KINDS.get(each, "a value") for each in kinds.split(" | "))
    return f"{', '.join(others)} or {last}" if others else last


def _choices(kind: Any) -> Iterator[str]:
    if get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
        return
    for inner in get_args(kind):
        yield from _choices(inner)


def _notes(kind: Any) -> Iterator[Meta]:
    """Yield what is noted at a type, the outermost last."""
    inner, *notes = get_args(kind) if get_origin(kind) is Annotated else (None,)
    if inner is None:
        for each in get_args(kind):
            yield from _notes(each)
        return
    yield from _notes(inner)
    yield from (each for each in notes if isinstance(each, Meta))
