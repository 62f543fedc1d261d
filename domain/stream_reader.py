"""What following a streamed answer takes, whatever its records say: whole records out of pieces, within bounds.

A record is one NDJSON line or one SSE event.
"""

import re
from abc import ABC, abstractmethod
from typing import Final

from domain.answers import Echo
from domain.outputs import Output
from domain.usage import MeasuredUsage

MAX_HELD_BYTES: Final = 256 * 1024
"""A record longer than this is relayed as it comes: from there on the client may stand inside a record."""
MAX_RECORD_BYTES: Final = 8 * 1024 * 1024
"""Ollama's own client refuses longer lines; a generate call's last line can hold a context of megabytes."""

USUAL_TOKEN_BYTES: Final = 16
"""A token is hardly ever longer."""
MAX_FRAME_BYTES: Final = 512
"""What a record holds beside its text. Where that is more (log probabilities), every record is measured."""

_EVENT_END = re.compile(rb"\r?\n\r?\n")
_EVENT_END_BYTES = 4
_EVENT_SETTINGS = (b":", b"event:", b"id:", b"retry:")
BROKEN_MESSAGE: Final = "the answer broke off before it was complete"


class StreamReader(ABC):
    """Follows one streamed answer.

    Attributes
    ----------
    tokens
        Output tokens in the records released so far: one record of content counts as one, one that holds a call or
        more text than a token can be as what its bytes come to (`domain.outputs`).
    finished
        The terminator was released; whatever follows it is dropped.
    failed
        The backend reported an error, sent what is no record, or a record beyond all bounds. Nothing of that
        was released, and nothing after it is.
    failure
        Which of these, as a constant: `error_record`, `malformed` or `oversize`.
    error_text
        The backend's own words, bounded, for operators only.
    usage
        What the backend measured, once it said so.
    overlong
        The client stands inside a record, so that nothing can be said to it in-band.
    """

    __slots__ = (
        "_echo",
        "_held",
        "_one_token_bytes",
        "_relayed",
        "_searched",
        "error_text",
        "failed",
        "failure",
        "finished",
        "overlong",
        "tokens",
        "usage",
    )

    def __init__(self, *, echo: Echo | None) -> None:
        self._echo = echo
        self._held = bytearray()
        self._one_token_bytes = 0
        self._searched = 0
        self._relayed = 0
        self.tokens = 0
        self.finished = False
        self.failed = False
        self.failure = ""
        self.error_text = ""
        self.overlong = False
        self.usage: MeasuredUsage | None = None

    @property
    def has_begun(self) -> bool:
        """Whether what was released is more than a preamble: until then another backend may still answer."""
        return True

    def feed(self, piece: bytes) -> bytes:
        """Take the next bytes of the answer and return the records that may be sent on."""
        if self._is_over():
            return b""
        if not self._held and self._is_one_record(piece):
            return self._read(piece)
        self._held += piece
        released = []
        start = 0
        while not self._is_over():
            end = self._record_end(max(start, self._searched))
            if end < 0:
                break
            released.append(self._release(bytes(self._held[start:end])))
            start = self._searched = end
        del self._held[:start]
        self._searched = max(0, len(self._held) - _EVENT_END_BYTES)
        if len(self._held) > MAX_HELD_BYTES and not self._is_over():
            released.append(self._release_early())
        return b"".join(released)

    def end(self) -> bytes:
        """Take the end of the answer: a last record may lack its delimiter. Returns what may be sent on."""
        rest = bytes(self._held)
        self._held.clear()
        if self._is_over() or not rest.strip():
            return b""
        return self._release(rest + self._delimiter)

    _delimiter: bytes

    @abstractmethod
    def _is_one_record(self, piece: bytes) -> bool:
        """Tell cheaply whether a piece is exactly one record; False may also mean that it is hard to tell."""

    @abstractmethod
    def _record_end(self, start: int) -> int:
        """Return where the held record that is searched from `start` ends, delimiter included, or -1."""

    @abstractmethod
    def _read(self, record: bytes) -> bytes:
        """Take one whole record into account and return what the client gets of it."""

    @abstractmethod
    def parting(self, message: str = BROKEN_MESSAGE) -> bytes:
        """Return the record that ends a stream which cannot be completed, without any terminator of success.

        `message` is ours, never a backend's.
        """

    def _count(self, record: bytes, output: Output) -> None:
        """Count a record of content that is longer than those known to be one token, and learn how long these are.

        So the length alone tells of nearly every record that there is nothing to measure.
        """
        self.tokens += max(1, output.in_one_record)
        frame = len(record) - output.text
        if frame <= MAX_FRAME_BYTES and not output.arguments:
            length = frame + USUAL_TOKEN_BYTES
            self._one_token_bytes = min(length, self._one_token_bytes or length)

    def _is_over(self) -> bool:
        return self.finished or self.failed

    def _release(self, record: bytes) -> bytes:
        relayed, self._relayed, self.overlong = self._relayed, 0, False
        released = self._read(record)
        if not relayed:
            return released
        self.overlong = self.failed
        return b"" if self.failed else record[relayed:]

    def _release_early(self) -> bytes:
        """Relay the beginning of an overlong record; one that might report an error is held to its end."""
        if len(self._held) > MAX_RECORD_BYTES:
            self._fail("oversize")
            return b""
        if not self._relayed and b'"error"' in self._held:
            return b""
        piece = bytes(self._held[self._relayed :])
        if not self._relayed and self._echo is not None:
            piece = self._echo.head(piece)
        self._relayed = len(self._held)
        self.overlong = True
        return piece

    def _fail(self, failure: str, text: str = "") -> bytes:
        self.failed = True
        self.failure = failure
        self.error_text = text
        return b""


class EventReader(StreamReader):
    """Finds the boundaries of server-sent events."""

    __slots__ = ()
    _delimiter = b"\n\n"

    def _is_one_record(self, piece: bytes) -> bool:
        return piece.endswith(b"\n\n") and piece.find(b"\n") == len(piece) - 2

    def _record_end(self, start: int) -> int:
        end = self._held.find(b"\n\n", start)
        if self._held.find(b"\r", start, end if end >= 0 else len(self._held)) < 0:
            return end + 2 if end >= 0 else -1
        found = _EVENT_END.search(self._held, start)
        return found.end() if found is not None else -1


def event_data(record: bytes) -> bytes | None:
    """Return the data of an SSE event, None if it has none (comments)."""
    if record.startswith(b"data:") and record.find(b"\n") == len(record) - 2:
        return record[5:]
    if record.startswith(b"event:"):
        line = record.find(b"\n") + 1
        if record.startswith(b"data:", line) and record.find(b"\n", line) == len(record) - 2:
            return record[line + 5 :]
    lines = [line[5:] for line in record.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def says_nothing(record: bytes) -> bool:
    """Tell whether an event without data is comments and settings of the transport only."""
    return all(line.startswith(_EVENT_SETTINGS) for line in record.splitlines() if line)
