"""What a backend's records and bodies say: whether they end an answer, what it cost, whose name they carry.

Records are decoded into the few fields that matter; msgspec skips the rest at a cost below that of searching
the bytes, and unlike a search it cannot be fooled by what a model writes.
"""

import json
from typing import Annotated

import msgspec

from domain.outputs import UNREADABLE, Output, chat_output, items_output
from domain.routes import RouteKind, RouteSpec
from domain.usage import MeasuredUsage
from domain.values import ApiFamily

_MAX_ERROR_CHARS = 256
_NO_OUTPUT_REASONS = frozenset({"load", "unload"})

_ABSENT = msgspec.Raw()
"""Empty, so falsy; msgspec cannot decode an optional Raw."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class NativeRecord(msgspec.Struct, gc=False):
    """One object of a native answer, streamed or whole; all but errors say whether they are the last."""

    done: bool | None = None
    error: str | dict[str, object] | None = None


class NativeCounts(msgspec.Struct, gc=False):
    """The measurements in the object that ends a native answer. Ollama leaves zeros out."""

    done_reason: str | None = None
    prompt_eval_count: Count | None = None
    eval_count: Count | None = None
    total_duration: Count = 0
    load_duration: Count = 0
    prompt_eval_duration: Count = 0
    eval_duration: Count = 0


class Choice(msgspec.Struct, gc=False):
    """One choice of an OpenAI answer; a finish reason ends it."""

    finish_reason: str | None = None


class OpenAiRecord(msgspec.Struct, gc=False):
    """One object of an OpenAI answer, streamed or whole."""

    model: str | None = None
    choices: list[Choice] | None = None
    usage: msgspec.Raw = _ABSENT
    error: str | dict[str, object] | None = None


class OpenAiCounts(msgspec.Struct, gc=False):
    """The usage object of an OpenAI answer."""

    prompt_tokens: Count
    completion_tokens: Count = 0


class TokenCounts(msgspec.Struct, gc=False):
    """The usage object of the Responses API and of Anthropic's. Ollama writes 0 where it does not know."""

    input_tokens: Count = 0
    output_tokens: Count = 0


class _ResponseBody(msgspec.Struct, gc=False):
    status: str = ""
    usage: TokenCounts | None = None
    error: str | dict[str, object] | None = None


class _MessageBody(msgspec.Struct, gc=False):
    type: str = ""
    stop_reason: str | None = None
    usage: TokenCounts | None = None
    error: str | dict[str, object] | None = None


class _Embeddings(msgspec.Struct, gc=False):
    embeddings: msgspec.Raw = _ABSENT
    embedding: msgspec.Raw = _ABSENT
    data: msgspec.Raw = _ABSENT
    usage: msgspec.Raw = _ABSENT
    error: str | dict[str, object] | None = None


class WholeAnswer(msgspec.Struct, frozen=True):
    """An answer that came as one JSON body.

    `complete` is False for an error, for something else than this route answers, and for an answer that the
    backend itself gave up in the middle: `given_up` is the tokens, roughly, of what it had made until then.
    `error_text` is for operators only.
    """

    complete: bool
    usage: MeasuredUsage | None = None
    error_text: str = ""
    given_up: int = 0


class Echo(msgspec.Struct, frozen=True):
    """Gives answers the client's own spelling of the model name back."""

    forwarded: str
    wanted: str

    def whole(self, body: bytes) -> bytes:
        """Return one JSON object with its `model` respelled; all other values keep their bytes."""
        try:
            fields = _FIELDS.decode(body)
        except UNREADABLE:
            return body
        if "model" not in fields:
            return body
        return msgspec.json.encode({**fields, "model": self.wanted})

    def within(self, field: str, data: bytes) -> bytes:
        """Return one JSON object with the `model` of the object in `field` respelled."""
        try:
            fields = _FIELDS.decode(data)
        except UNREADABLE:
            return data
        if field not in fields:
            return data
        inner = msgspec.Raw(self.whole(bytes(fields[field])))
        return msgspec.json.encode({**fields, field: inner})

    def head(self, piece: bytes) -> bytes:
        """Return the beginning of a JSON object too large to hold, its `model` respelled.

        Ollama writes the name before anything a model made, and inside text its quotes would be escaped, so
        the first place that reads like the field is the field.
        """
        field = b'"model":%b'
        found = field % msgspec.json.encode(self.forwarded)
        return piece.replace(found, field % msgspec.json.encode(self.wanted), 1)


def read_whole(spec: RouteSpec, body: bytes) -> WholeAnswer:
    """Read the whole body of a 200 answer that was not streamed."""
    try:
        if spec.kind is RouteKind.EMBED:
            return _read_embeddings(body)
        if spec.family is ApiFamily.NATIVE:
            return _read_native(body)
        if spec.family is ApiFamily.RESPONSES:
            return _read_response(body)
        if spec.family is ApiFamily.ANTHROPIC:
            return _read_message(body)
        return _read_openai(body)
    except UNREADABLE:
        return WholeAnswer(complete=False)


def usage_at_end(spec: RouteSpec, tail: bytes) -> MeasuredUsage | None:
    """Return the usage from the last bytes of a body too large to keep; None if they do not show it.

    What follows the last list of such a body (vectors, context, choices) are the top level's last fields.
    Text of a model cannot imitate them: its quotes are escaped.
    """
    if spec.family in {ApiFamily.RESPONSES, ApiFamily.ANTHROPIC}:
        return _last_usage(tail)
    last_fields = b"{" + tail[tail.rfind(b"]") + 1 :].lstrip(b", \n")
    if spec.family is ApiFamily.NATIVE:
        return native_usage(last_fields, counted=0)
    try:
        return openai_usage(OPENAI_RECORD.decode(last_fields).usage)
    except UNREADABLE:
        return None


def native_usage(record: bytes, *, counted: int) -> MeasuredUsage | None:
    """Return what the last object of a native answer reports, None if its numbers make no sense.

    `counted` output records stand in for a count that the backend left out.
    """
    try:
        counts = _NATIVE_COUNTS.decode(record)
    except UNREADABLE:
        return None
    nothing_made = counts.done_reason in _NO_OUTPUT_REASONS
    return MeasuredUsage(
        tokens_in=0 if nothing_made else counts.prompt_eval_count,
        tokens_out=counted if counts.eval_count is None else counts.eval_count,
        total_ns=counts.total_duration,
        load_ns=counts.load_duration,
        prompt_ns=counts.prompt_eval_duration,
        eval_ns=counts.eval_duration,
    )


def openai_usage(usage: msgspec.Raw) -> MeasuredUsage | None:
    """Return what an OpenAI usage object reports, None if there is none."""
    if not usage:
        return None
    try:
        counts = _OPENAI_COUNTS.decode(usage)
    except UNREADABLE:
        return None
    return MeasuredUsage(tokens_in=counts.prompt_tokens, tokens_out=counts.completion_tokens)


def token_usage(counts: TokenCounts | None) -> MeasuredUsage | None:
    """Return what a usage object of the Responses API or of Anthropic's reports, None if there is none.

    A prompt of no tokens does not exist: 0 is how an unknown count is written.
    """
    if counts is None or not (counts.input_tokens or counts.output_tokens):
        return None
    return MeasuredUsage(tokens_in=counts.input_tokens or None, tokens_out=counts.output_tokens)


def error_text(error: str | dict[str, object] | None) -> str:
    """Return a backend's error as bounded text for operators."""
    text = error.get("message") if isinstance(error, dict) else error
    return text[:_MAX_ERROR_CHARS] if isinstance(text, str) else ""


def _read_native(body: bytes) -> WholeAnswer:
    record = NATIVE_RECORD.decode(body)
    if record.error is not None or not record.done:
        return _incomplete(record.error, chat_output(body) if record.done is False else Output())
    return WholeAnswer(complete=True, usage=native_usage(body, counted=0))


def _read_openai(body: bytes) -> WholeAnswer:
    record = OPENAI_RECORD.decode(body)
    ended = bool(record.choices) and all(choice.finish_reason for choice in record.choices or ())
    if record.error is not None or not ended:
        return _incomplete(record.error, chat_output(body))
    return WholeAnswer(complete=True, usage=openai_usage(record.usage))


def _read_response(body: bytes) -> WholeAnswer:
    """Read a response. One that Ollama gave up half-way says that it is complete, but counts nothing."""
    record = _RESPONSE_BODY.decode(body)
    usage = token_usage(record.usage)
    if record.error is not None or record.status not in {"completed", "incomplete"} or usage is None:
        return _incomplete(record.error, items_output(body))
    return WholeAnswer(complete=True, usage=usage)


def _read_message(body: bytes) -> WholeAnswer:
    record = _MESSAGE_BODY.decode(body)
    if record.error is not None or record.type != "message" or not record.stop_reason:
        return _incomplete(record.error, items_output(body))
    return WholeAnswer(complete=True, usage=token_usage(record.usage))


def _incomplete(error: str | dict[str, object] | None, output: Output) -> WholeAnswer:
    """Judge an answer without an end: with an error it failed, else it was given up if anything stands in it."""
    given_up = output.in_one_piece if error is None else 0
    return WholeAnswer(complete=False, error_text=error_text(error), given_up=given_up)


def _last_usage(tail: bytes) -> MeasuredUsage | None:
    """Return the last usage object that begins in `tail`."""
    _, found, rest = tail.rpartition(b'"usage":')
    try:
        counts, _ = _PREFIX.raw_decode(rest.decode()) if found else (None, 0)
        return token_usage(msgspec.convert(counts, TokenCounts | None))
    except (*UNREADABLE, ValueError):
        return None


def _read_embeddings(body: bytes) -> WholeAnswer:
    record = _EMBEDDINGS.decode(body)
    if record.error is not None or not (record.embeddings or record.embedding or record.data):
        return WholeAnswer(complete=False, error_text=error_text(record.error))
    usage = native_usage(body, counted=0) if record.embeddings else openai_usage(record.usage)
    return WholeAnswer(complete=True, usage=usage)


NATIVE_RECORD = msgspec.json.Decoder(NativeRecord)
OPENAI_RECORD = msgspec.json.Decoder(OpenAiRecord)
_NATIVE_COUNTS = msgspec.json.Decoder(NativeCounts)
_OPENAI_COUNTS = msgspec.json.Decoder(OpenAiCounts)
_RESPONSE_BODY = msgspec.json.Decoder(_ResponseBody)
_MESSAGE_BODY = msgspec.json.Decoder(_MessageBody)
_PREFIX = json.JSONDecoder()
_EMBEDDINGS = msgspec.json.Decoder(_Embeddings)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
