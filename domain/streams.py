"""Streamed answers, record by record: what may be relayed, what it cost so far, and how the answer ended.

Whole records are released unchanged as they complete; one that reports an error is kept back, because no text
of a backend's error reaches a tenant.
"""

import msgspec

from domain.answers import (
    NATIVE_RECORD,
    OPENAI_RECORD,
    Echo,
    OpenAiRecord,
    error_text,
    native_usage,
    openai_usage,
)
from domain.event_streams import MessagesReader, ResponsesReader
from domain.model_names import CanonicalName
from domain.outputs import UNREADABLE, chat_output
from domain.requests import ParsedRequest
from domain.routes import RouteSpec
from domain.stream_reader import BROKEN_MESSAGE, EventReader, StreamReader, event_data, says_nothing
from domain.values import ApiFamily


class NdjsonReader(StreamReader):
    """Follows a native answer: it ends with the object that says `done`."""

    __slots__ = ()
    _delimiter = b"\n"

    def _is_one_record(self, piece: bytes) -> bool:
        return piece.find(b"\n") == len(piece) - 1

    def _record_end(self, start: int) -> int:
        return self._held.find(b"\n", start) + 1 or -1

    def _read(self, record: bytes) -> bytes:
        try:
            seen = NATIVE_RECORD.decode(record)
        except UNREADABLE:
            # Clients parse every line, so a blank one must not reach them.
            return self._fail("malformed") if record.strip() else b""
        if seen.error is not None:
            return self._fail("error_record", error_text(seen.error))
        if seen.done is None:
            return self._fail("malformed")
        if seen.done:
            self.finished = True
            self.usage = native_usage(record, counted=self.tokens)
        elif len(record) <= self._one_token_bytes:
            self.tokens += 1
        else:
            self._count(record, chat_output(record))
        return record if self._echo is None else self._echo.whole(record) + b"\n"

    def parting(self, message: str = BROKEN_MESSAGE) -> bytes:
        """Return an error line."""
        return msgspec.json.encode({"error": message}) + b"\n"


class SseReader(EventReader):
    """Follows an OpenAI answer: it ends with `[DONE]`, which counts only after a finish reason.

    Usage is always asked for upstream; what of it the client did not ask for is taken out again.
    """

    __slots__ = ("_finish_seen", "_wants_usage")

    def __init__(self, *, echo: Echo | None, wants_usage: bool) -> None:
        super().__init__(echo=echo)
        self._wants_usage = wants_usage
        self._finish_seen = False

    def _read(self, record: bytes) -> bytes:
        data = event_data(record)
        if data is None:
            return record if says_nothing(record) else self._fail("malformed")
        if data.strip() == b"[DONE]":
            self.finished = self._finish_seen
            return record if self.finished else self._fail("malformed")
        try:
            chunk = OPENAI_RECORD.decode(data)
        except UNREADABLE:
            return self._fail("malformed")
        if chunk.error is not None or chunk.model == "":
            # An empty model is how Ollama shows an error in mid-stream here: its words are lost on the way.
            return self._fail("error_record", error_text(chunk.error))
        return self._read_chunk(chunk, record, data)

    def _read_chunk(self, chunk: OpenAiRecord, record: bytes, data: bytes) -> bytes:
        hides_usage = chunk.usage and not self._wants_usage
        if chunk.choices:
            if chunk.choices[0].finish_reason:
                self._finish_seen = True
                self.tokens += chat_output(
                    data
                ).in_one_record  # a last word, or a call, may stand beside the reason
            elif len(record) <= self._one_token_bytes:
                self.tokens += 1
            else:
                self._count(record, chat_output(data))
        elif chunk.usage:
            self.usage = openai_usage(chunk.usage)
            if hides_usage:
                return b""
        elif chunk.choices is None:
            return self._fail("malformed")
        if hides_usage:
            record = _without_usage(record, data, bytes(chunk.usage))
        return record if self._echo is None else self._echoed(record)

    def parting(self, message: str = BROKEN_MESSAGE) -> bytes:
        """Return an event that holds an error, and no `[DONE]`."""
        error = {"message": message, "type": "api_error", "param": None, "code": None}
        return b"data: %b\n\n" % msgspec.json.encode({"error": error})

    def _echoed(self, record: bytes) -> bytes:
        """Respell the model in a record; `data` of an event that spans lines is put on one."""
        data = event_data(record)
        return record if data is None or self._echo is None else b"data: %b\n\n" % self._echo.whole(data)


def stream_reader(spec: RouteSpec, request: ParsedRequest, name: CanonicalName) -> StreamReader:
    """Return the reader of a streamed answer to `request`, which was sent upstream under `name`."""
    echo = Echo(name.forwarded, request.model) if name.needs_echo else None
    if spec.family is ApiFamily.NATIVE:
        return NdjsonReader(echo=echo)
    if spec.family is ApiFamily.OPENAI:
        return SseReader(echo=echo, wants_usage=request.wants_usage)
    return (ResponsesReader if spec.family is ApiFamily.RESPONSES else MessagesReader)(echo=echo)


def _without_usage(record: bytes, data: bytes, usage: bytes) -> bytes:
    """Take the usage out of a chunk; Ollama writes it last, so that cutting the end off is enough."""
    last_field = b',"usage":%b}\n\n' % usage
    if record.endswith(last_field):
        return record[: -len(last_field)] + b"}\n\n"
    fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    fields.pop("usage", None)
    return b"data: %b\n\n" % msgspec.json.encode(fields)
