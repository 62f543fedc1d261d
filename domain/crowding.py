"""How many values a JSON text holds, found without reading it.

The reader of the standard library holds the interpreter for as long as it makes lists and texts, and the garbage
collector looks at every list made: millions of them, which fit into a few megabytes, would stop everybody for seconds.
No conversation and no batch comes near the bounds.
"""

from collections.abc import Generator
from typing import Final

from domain.errors import BadRequest

MAX_CONTAINERS: Final = 100_000
"""Lists and objects of one body. A conversation of a million tokens has half as many at most."""
MAX_COMMAS: Final = 1_000_000
"""What separates values. A `context` has one for each token."""
_STEP_BYTES: Final = 64 * 1024


def refuse_crowded(text: bytes) -> Generator[None, None, None]:
    """Refuse a text that holds more than anybody means. Pauses after each step.

    Raises
    ------
    BadRequest
        It holds too many lists, objects or values.
    """
    everywhere = _Count()
    for at in range(0, len(text), _STEP_BYTES):
        everywhere.add(text[at : at + _STEP_BYTES])
        yield
    if everywhere.is_roomy:
        return
    outside, at, within = _Count(), 0, 0
    while at < len(text):
        piece = text[at : at + _STEP_BYTES]
        at += len(piece)
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2 and at < len(text):
            piece, at = piece[:-1], at - 1  # what this backslash escapes comes next
        between = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside.add(b"".join(between[within::2]))
        within = (within + len(between) - 1) % 2
        if not outside.is_roomy:
            raise BadRequest(
                f"the body holds more than {MAX_CONTAINERS:,} lists and objects, or more than {MAX_COMMAS:,} values"
            )
        yield


class _Count:
    """What was counted so far."""

    __slots__ = ("_commas", "_containers")

    def __init__(self) -> None:
        self._containers = self._commas = 0

    def add(self, text: bytes) -> None:
        self._containers += text.count(b"[") + text.count(b"{")
        self._commas += text.count(b",")

    @property
    def is_roomy(self) -> bool:
        return self._containers <= MAX_CONTAINERS and self._commas <= MAX_COMMAS
