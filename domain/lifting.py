"""Large bodies, read without what makes them large: images in base64 are lifted out before anything is parsed.

A JSON reader goes over every character of a text and holds the interpreter until it is done. A text in base64 has
nothing to be found out about but its alphabet, which can be looked at in steps. So `lift` puts a short stand-in where
such a text was, the strict reader reads what remains, and `parse_lifted` puts everything back: it returns and refuses
exactly what `domain.strict_json.parse_object` does for the whole body, down to the words of a refusal.

What is lifted stands between two quotes, begins right after the first one and holds no backslash but before a slash,
and no backslash stands before the first quote. So either that quote opens a text, which then ends at the second one:
its place is taken by another text. Or it closes a text: then a letter or the like follows it, which is no JSON, with
the stand-in as without. A key is never lifted, because equal ones must be seen to be equal: what follows the second
quote has to end a value.
"""

import re
import secrets
from collections.abc import Generator, Iterator
from typing import Final, NamedTuple

import msgspec

from domain.crowding import refuse_crowded
from domain.strict_json import KnownFields, StrictObject, parse_object

SHORTEST_BYTES: Final = 4096
"""A text of at least so many bytes is lifted. What is shorter is quickly read, and as many as fit do no harm."""
STEP_BYTES: Final = 256 * 1024
"""How much is looked at in one step: a quarter of a millisecond."""

_PROBE_BYTES: Final = 64
"""Enough of a text in words to see that it is one."""
_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_BEFORE: Final = re.compile(rb"[:,\[][ \t\r\n]*\Z")
_AFTER: Final = re.compile(rb"[ \t\r\n]*[,\]}]")
_BLANKS_SEEN: Final = 16
"""What stands farther than so many blanks from its neighbours is left where it is."""
_DATA_URL: Final = re.compile(rb"data:(?:[a-z0-9+.-]|\\?/){0,64};base64,")
_CONTAINERS: Final = (dict, list)


class _Place(NamedTuple):
    """Where in a body a lifted text stands, without its quotes."""

    start: int
    end: int


class Lifted(NamedTuple):
    """A body from which texts were lifted.

    `remainder` is the body with a stand-in for each of them, which is `mark`, that stands nowhere else, and its number.
    `texts` are what the stand-ins mean; `places` says where in the body they come from.
    """

    body: bytes
    remainder: bytes
    mark: bytes
    places: list[_Place]
    texts: dict[str, str]

    def __repr__(self) -> str:
        """Leave out what the client said."""
        return f"Lifted(texts={len(self.places)})"

    def position(self, remainder: str | bytes, at: int) -> int:
        """Return where in the body stands what stands at `at` in the remainder, counted in the same units."""
        before = (
            remainder.count(self.mark.decode(), 0, at)
            if isinstance(remainder, str)
            else remainder.count(self.mark, 0, at)
        )
        return at + sum(end - start - len(self.stand_in(0)) for start, end in self.places[:before])

    def stand_in(self, number: int) -> bytes:
        """Return what stands for one of the texts."""
        return b"%b%08x" % (self.mark, number)


def lift(body: bytes, *, shortest: int = SHORTEST_BYTES) -> Generator[None, None, Lifted]:
    """Lift the long texts in base64 out of a body, bare ones and data URLs. Pauses after each step.

    Raises
    ------
    BadRequest
        What remains is crowded (`domain.crowding`): only a large body can be, so nobody asks this of small ones.
    """
    places, texts = list[_Place](), list[str]()
    for gap in _gaps(body, shortest):
        if gap is None:
            yield
            continue
        text = yield from _read(body, gap)
        if text is not None:
            places.append(gap)
            texts.append(text)
    lifted = _without(body, places, texts)
    yield from refuse_crowded(lifted.remainder)
    return lifted


def parse_lifted(lifted: Lifted, known: KnownFields) -> StrictObject:
    """Read a body of which texts were lifted, as `parse_object` reads the whole one.

    Raises
    ------
    BadRequest
        As `parse_object` says, in the same words.
    """
    read = parse_object(lifted.remainder, known, position=lifted.position)
    if not lifted.places:
        return read
    _put_back(read.values, lifted.texts)
    return StrictObject(read.values, _own_bytes(read.raw, lifted), read.unknown)


def _gaps(body: bytes, shortest: int) -> Iterator[_Place | None]:
    """Yield what stands between neighbouring quotes and has the length, and None now and then.

    One look at each stretch of half that length finds all of them, however many quotes there are.
    """
    stretch = max(1, shortest // 2)
    at = floor = 0
    pause = STEP_BYTES
    while at < len(body):
        if at >= pause:
            pause = at + STEP_BYTES
            yield None
        if body.find(b'"', at, at + stretch) >= 0:
            at += stretch
            continue
        opening, closing = body.rfind(b'"', floor, at), body.find(b'"', at + stretch)
        if closing < 0:
            return
        if opening >= 0 and closing - opening > shortest:
            yield _Place(opening + 1, closing)
        at = floor = closing


def _read(body: bytes, place: _Place) -> Generator[None, None, str | None]:
    """Return the text that stands there, None if it is not to be lifted."""
    start, end = place
    if not (
        _BEFORE.search(body, max(0, start - 2 - _BLANKS_SEEN), start - 1)
        and _AFTER.match(body, end + 1, end + 2 + _BLANKS_SEEN)
    ):
        return None
    head = _DATA_URL.match(body, start, end)
    at = start if head is None else head.end()
    if body[at : min(end, at + _PROBE_BYTES)].translate(None, _ALPHABET + b"\\"):
        return None
    escaped = bytearray(body[start:at].replace(b"\\/", b"/")) if body.find(b"\\", start, end) >= 0 else None
    while at < end:
        step = min(end, at + STEP_BYTES)
        if escaped is not None and body[step - 1 : step] == b"\\":
            step += 1
        piece = body[at:step]
        if escaped is not None:
            piece = piece.replace(b"\\/", b"/")
            escaped += piece
        if piece.translate(None, _ALPHABET):
            return None
        at = step
        yield
    return str(memoryview(body)[start:end] if escaped is None else escaped, "ascii")


def _without(body: bytes, places: list[_Place], texts: list[str]) -> Lifted:
    lifted = Lifted(body, body, secrets.token_hex(16).encode(), places, {})
    if not places:
        return lifted
    pieces, at = list[bytes](), 0
    for number, (place, text) in enumerate(zip(places, texts, strict=True)):
        stand_in = lifted.stand_in(number)
        pieces += (body[at : place.start], stand_in)
        at = place.end
        lifted.texts[stand_in.decode()] = text
    return lifted._replace(remainder=b"".join((*pieces, body[at:])))


def _put_back(values: dict[str, object], texts: dict[str, str]) -> None:
    """Replace every stand-in by its text."""
    length = len(next(iter(texts)))
    left: list[dict[str, object] | list[object]] = [values]
    while left:
        container = left.pop()
        found = [
            (key, texts[value])
            for key, value in (container.items() if isinstance(container, dict) else enumerate(container))
            if isinstance(value, str) and len(value) == length and value in texts
        ]
        for key, text in found:
            container[key] = text  # type: ignore[index] # a key goes with its container
        left += [
            value
            for value in (container.values() if isinstance(container, dict) else container)
            if isinstance(value, _CONTAINERS)
        ]


def _own_bytes(raw: dict[str, msgspec.Raw], lifted: Lifted) -> dict[str, msgspec.Raw]:
    """Return the client's own bytes for each value; those of a value without stand-ins are its own already."""
    view, length = memoryview(lifted.body), len(lifted.stand_in(0))
    own, seen = dict[str, msgspec.Raw](), 0
    for name, value in raw.items():
        own[name] = value
        text = bytes(value)
        count = text.count(lifted.mark)
        if count:
            start = lifted.places[seen].start - text.find(lifted.mark)
            seen += count
            end = lifted.places[seen - 1].end + len(text) - (text.rfind(lifted.mark) + length)
            own[name] = msgspec.Raw(view[start:end])
    return own
