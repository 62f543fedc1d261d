"""Streams whose events have a type: those of OpenAI's Responses API, and Anthropic's.

In both the first event names the model, the counts stand in one event at the end, and only the last event of the
right type is an end: there is no `[DONE]`.
"""

from abc import abstractmethod
from collections.abc import Mapping

import msgspec

from domain.answers import Echo, TokenCounts, error_text, token_usage
from domain.outputs import UNREADABLE, delta_output
from domain.stream_reader import BROKEN_MESSAGE, EventReader, event_data, says_nothing

_ABSENT = msgspec.Raw()


class TypedEvent(msgspec.Struct, gc=False):
    """What every event says. Those that hold more are read again."""

    type: str = ""
    sequence_number: int = -1
    error: str | dict[str, object] | None = None


class _Response(msgspec.Struct, gc=False):
    id: str = ""
    created_at: int = 0
    model: str = ""
    usage: TokenCounts | None = None
    error: str | dict[str, object] | None = None


class _ResponseEvent(msgspec.Struct, gc=False):
    response: _Response


class _MessageDelta(msgspec.Struct, gc=False):
    usage: TokenCounts | None = None


class TypedEventReader(EventReader):
    """What the two families share. `_names_model` maps types of events to the field in which the model is named."""

    __slots__ = ()
    _names_model: Mapping[str, str]

    @property
    def has_begun(self) -> bool:
        """Whether something of the answer itself was released."""
        return self.tokens > 0

    def _is_one_record(self, piece: bytes) -> bool:
        return piece.endswith(b"\n\n") and piece.find(b"\n\n") == len(piece) - 2 and b"\r" not in piece

    def _read(self, record: bytes) -> bytes:
        data = event_data(record)
        if data is None:
            return record if says_nothing(record) else self._fail("malformed")
        try:
            event = TYPED_EVENT.decode(data)
            return self._read_event(event, record, data)
        except UNREADABLE:
            return self._fail("malformed")

    def _count_delta(self, record: bytes, data: bytes) -> None:
        if len(record) <= self._one_token_bytes:
            self.tokens += 1
        else:
            self._count(record, delta_output(data))

    @abstractmethod
    def _read_event(self, event: TypedEvent, record: bytes, data: bytes) -> bytes:
        """Take one event into account and return what the client gets of it.

        Raises
        ------
        msgspec.DecodeError
            The event does not hold what its type promises.
        """

    def _echoed(self, event: TypedEvent, record: bytes, data: bytes) -> bytes:
        """Give the client its spelling of the model back, in events that name it."""
        field = self._names_model.get(event.type)
        if field is None or self._echo is None:
            return record
        return b"event: %b\ndata: %b\n\n" % (event.type.encode(), self._echo.within(field, data))


class ResponsesReader(TypedEventReader):
    """Follows a Responses answer: it ends with `response.completed`, which holds the counts."""

    __slots__ = ("_created_at", "_id", "_model", "_sequence")
    _names_model = dict.fromkeys(
        (
            "response.created",
            "response.queued",
            "response.in_progress",
            "response.completed",
            "response.incomplete",
        ),
        "response",
    )

    def __init__(self, *, echo: Echo | None) -> None:
        super().__init__(echo=echo)
        self._sequence = -1
        self._id = ""
        self._created_at = 0
        self._model = ""

    def _read_event(self, event: TypedEvent, record: bytes, data: bytes) -> bytes:
        kind = event.type
        if kind in {"response.failed", "error"} or event.error is not None:
            return self._fail("error_record", _failure_text(event, data))
        if not kind:
            return self._fail("malformed")
        if kind.endswith(".delta"):
            self._count_delta(record, data)
        elif kind == "response.created":
            response = _RESPONSE_EVENT.decode(data).response
            self._id, self._created_at, self._model = response.id, response.created_at, response.model
        elif kind in {"response.completed", "response.incomplete"}:
            self.usage = token_usage(_RESPONSE_EVENT.decode(data).response.usage)
            self.finished = True
        self._sequence = max(self._sequence, event.sequence_number)
        return self._echoed(event, record, data)

    def parting(self, message: str = BROKEN_MESSAGE) -> bytes:
        """Return the event of a response that failed, numbered after the last one that was released."""
        return failed_response(
            message,
            response_id=self._id,
            created_at=self._created_at,
            model=self._model if self._echo is None else self._echo.wanted,
            sequence_number=self._sequence + 1,
        )


class MessagesReader(TypedEventReader):
    """Follows an Anthropic answer: it ends with `message_stop`, after the `message_delta` that holds the counts.

    What `message_start` says of the prompt is a guess of the backend's, and not taken for a count.
    """

    __slots__ = ("_delta_seen",)
    _names_model = {"message_start": "message"}  # noqa: RUF012 - never changed

    def __init__(self, *, echo: Echo | None) -> None:
        super().__init__(echo=echo)
        self._delta_seen = False

    def _read_event(self, event: TypedEvent, record: bytes, data: bytes) -> bytes:
        kind = event.type
        if kind == "error" or event.error is not None:
            return self._fail("error_record", error_text(event.error))
        if not kind:
            return self._fail("malformed")
        if kind == "content_block_delta":
            self._count_delta(record, data)
        elif kind == "message_delta":
            self.usage = token_usage(_MESSAGE_DELTA.decode(data).usage)
            self._delta_seen = True
        elif kind == "message_stop":
            if not self._delta_seen:
                return self._fail("malformed")
            self.finished = True
        return self._echoed(event, record, data)

    def parting(self, message: str = BROKEN_MESSAGE) -> bytes:
        """Return an error event."""
        error = {"type": "error", "error": {"type": "api_error", "message": message}}
        return b"event: error\ndata: %b\n\n" % msgspec.json.encode(error)


def failed_response(
    message: str,
    *,
    response_id: str,
    created_at: int = 0,
    model: str = "",
    sequence_number: int = 0,
    code: str = "server_error",
) -> bytes:
    """Return the event by which the Responses API tells that a response failed."""
    response = {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "failed",
        "error": {"code": code, "message": message},
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": None,
    }
    failed = {"type": "response.failed", "sequence_number": sequence_number, "response": response}
    return b"event: response.failed\ndata: %b\n\n" % msgspec.json.encode(failed)


def _failure_text(event: TypedEvent, data: bytes) -> str:
    """Return what a backend says of a failure: in the event itself, or in the response that failed."""
    if event.error is not None:
        return error_text(event.error)
    try:
        return error_text(_RESPONSE_EVENT.decode(data).response.error)
    except UNREADABLE:
        return ""


TYPED_EVENT = msgspec.json.Decoder(TypedEvent)
_RESPONSE_EVENT = msgspec.json.Decoder(_ResponseEvent)
_MESSAGE_DELTA = msgspec.json.Decoder(_MessageDelta)
