"""Ollama's answers as decisions: which lets the next candidate try, and which is the client's own fault.

Ollama reports some mistakes of the client as its own failure and some failures of its own as the client's
mistake. Only its text tells them apart: `_PHRASES` is the one place that reads it. What a client is told is
ours alone.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

import msgspec

from domain.answers import error_text
from domain.outputs import UNREADABLE
from domain.routes import RouteKind, RouteSpec


class VerdictKind(StrEnum):
    """What an answer's status means for the request and for the backend.

    good: relay it. model_missing, route_missing, busy, backend_trouble, server_error: the next candidate may
    try; trouble is the backend's configuration (its operator is told), a server error counts against its
    health. client_fault: no backend would do better.
    """

    GOOD = "good"
    MODEL_MISSING = "model_missing"
    ROUTE_MISSING = "route_missing"
    BUSY = "busy"
    BACKEND_TROUBLE = "backend_trouble"
    SERVER_ERROR = "server_error"
    CLIENT_FAULT = "client_fault"


class Verdict(msgspec.Struct, frozen=True):
    """A judged answer. `status` and `message` are what the client is told of its own fault.

    A `late` one is found only in reading a text, when other texts of the same request may have been computed.
    """

    kind: VerdictKind
    upstream_status: int
    status: int = 400
    message: str = ""
    late: bool = False


class _Phrase(msgspec.Struct, frozen=True):
    """Text of a backend's error (lower case) and what it really means, on the statuses it is known from."""

    text: str
    statuses: frozenset[int]
    kind: VerdictKind
    message: str = ""
    late: bool = False
    embed_only: bool = False


_OK: Final = 200
_BAD_REQUEST: Final = 400
_NOT_FOUND: Final = 404
_METHOD_NOT_ALLOWED: Final = 405
_SERVER_ERROR: Final = 500
_BUSY: Final = 503

_REFUSED_MESSAGE: Final = "the model server refused the request as invalid"
_ANSWER_TYPES: Final = (b"application/json", b"application/x-ndjson", b"text/event-stream")


def _crash(text: str) -> _Phrase:
    """Ollama reports any failure to embed, its runner's death included, as the client's mistake."""
    return _Phrase(text, frozenset({_BAD_REQUEST}), VerdictKind.SERVER_ERROR, embed_only=True)


def _fault(text: str, message: str, *statuses: int) -> _Phrase:
    return _Phrase(
        text, frozenset(statuses or {_BAD_REQUEST, _SERVER_ERROR}), VerdictKind.CLIENT_FAULT, message
    )


def _too_long(text: str) -> _Phrase:
    message = "the prompt is longer than the model's context"
    return _Phrase(
        text, frozenset({_BAD_REQUEST, _SERVER_ERROR}), VerdictKind.CLIENT_FAULT, message, late=True
    )


_PHRASES: Final = (
    _crash("do embedding request"),
    _crash("connection refused"),
    _crash("connection reset"),
    _crash("broken pipe"),
    _crash("eof"),
    _crash("runner"),
    _fault("must be of type", "an option has a value of the wrong type"),
    _fault("must be of an array of strings", "an option has a value of the wrong type"),
    _fault("invalid format", "'format' must be \"json\" or a JSON schema"),
    _fault("invalid json schema", "'format' must be \"json\" or a JSON schema"),
    _fault("failed to parse grammar", "the model server cannot follow this JSON schema"),
    _fault(
        "raw mode does not support", "'raw' cannot be combined with a template, a system prompt or a context"
    ),
    _fault("template: ", "the prompt template cannot be used"),
    _fault("template error", "the prompt template cannot be used"),
    _fault("does not support thinking", "this model does not support thinking", _BAD_REQUEST),
    _fault("does not support tools", "this model does not support tools", _BAD_REQUEST),
    _fault("does not support insert", "this model does not support a suffix", _BAD_REQUEST),
    _fault("does not support vision", "this model does not support images", _BAD_REQUEST),
    _fault("does not support chat", "this model does not support chat", _BAD_REQUEST),
    _fault("does not support generate", "this model does not support completions", _BAD_REQUEST),
    _fault("does not support completion", "this model does not support completions", _BAD_REQUEST),
    _fault("does not support embed", "this model does not support embeddings", _BAD_REQUEST),
    _fault("invalid think value", "'think' must be true, false or a level this model knows", _BAD_REQUEST),
    _fault("top_logprobs", "'top_logprobs' must be between 0 and 20", _BAD_REQUEST),
    _too_long("context length"),
    _too_long("available context size"),
    _fault("invalid input", "'input' must be a string or a list of strings, not empty", _BAD_REQUEST),
    _fault("only supports one image", "this model takes one image per request"),
    _fault("missing data required for image input", "this model does not support images"),
    _fault("image: unknown format", "an image cannot be decoded"),
    _fault("failed to decode image", "an image cannot be decoded"),
    _fault("only base64 images are supported", "an image must be given as base64", _BAD_REQUEST),
    _fault("invalid image", "an image cannot be decoded"),
    _fault("illegal base64", "an image cannot be decoded", _BAD_REQUEST),
    _fault("invalid message", "a message has content of a kind that is not supported", _BAD_REQUEST),
    _fault("invalid tool call", "a tool call has arguments that are not a JSON object", _BAD_REQUEST),
    _fault("invalid reasoning value", "the reasoning effort is none that this model knows", _BAD_REQUEST),
    _fault("unknown input item type", "'input' holds an item of a type that is not supported", _BAD_REQUEST),
    _fault("unknown content type", "a message has content of a type that is not supported", _BAD_REQUEST),
    _fault("file inputs are not", "files are not supported; send their text", _BAD_REQUEST),
    _fault(
        "failed to parse function call arguments",
        "a function call has arguments that are not JSON",
        _BAD_REQUEST,
    ),
    _fault("tool_use block missing", "a 'tool_use' block needs an 'id' and a 'name'", _BAD_REQUEST),
    _fault("invalid input_schema", "a tool has an 'input_schema' that is no JSON schema", _BAD_REQUEST),
    _fault("cannot unmarshal", "a field of the request has the wrong type", _BAD_REQUEST),
)


class _ErrorBody(msgspec.Struct):
    error: str | dict[str, object]


_ERROR_BODY = msgspec.json.Decoder(_ErrorBody)


def classify(status: int, body: bytes, content_type: bytes, spec: RouteSpec) -> Verdict:
    """Judge an answer by its head, and by the beginning of its body where it is no 200.

    Parameters
    ----------
    status
        The status a backend answered with.
    body
        The body of an error, as far as it was read; ignored for a 200.
    content_type
        The header's value, empty if it was missing.
    spec
        The route that was asked.
    """
    said = _said(body)
    kind = VerdictKind.BACKEND_TROUBLE
    if status == _OK:
        kind = VerdictKind.GOOD if content_type.lower().startswith(_ANSWER_TYPES) else kind
    elif status == _BUSY:
        kind = VerdictKind.BUSY
    elif status == _NOT_FOUND:
        kind = VerdictKind.MODEL_MISSING if said is not None else VerdictKind.ROUTE_MISSING
    elif status == _METHOD_NOT_ALLOWED:
        kind = VerdictKind.ROUTE_MISSING
    elif status == _BAD_REQUEST and said is not None:
        return _by_words(status, said, VerdictKind.CLIENT_FAULT, spec)
    elif status >= _SERVER_ERROR:
        return _by_words(status, said or "", VerdictKind.SERVER_ERROR, spec)
    return Verdict(kind, status)


def classify_error_record(text: str, spec: RouteSpec) -> Verdict:
    """Judge an error that came with status 200, before anything was relayed, by its words."""
    return _by_words(_SERVER_ERROR, text.lower(), VerdictKind.SERVER_ERROR, spec)


def unload_answer(spec: RouteSpec, model: str) -> bytes:
    """Return what Ollama answers when asked to unload a model; tenants get it without any unloading.

    `model` is the client's own spelling.
    """
    answer: dict[str, object] = {
        "model": model,
        "created_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }
    if spec.kind is RouteKind.CHAT:
        answer["message"] = {"role": "assistant", "content": ""}
    else:
        answer["response"] = ""
    return msgspec.json.encode(answer | {"done": True, "done_reason": "unload"})


def _said(body: bytes) -> str | None:
    """Return an error's text in lower case, None if the body is not one of Ollama's error objects."""
    try:
        return error_text(_ERROR_BODY.decode(body).error).lower()
    except UNREADABLE:
        return None


def _by_words(status: int, said: str, otherwise: VerdictKind, spec: RouteSpec) -> Verdict:
    for phrase in _PHRASES:
        if phrase.embed_only and spec.kind is not RouteKind.EMBED:
            continue
        if status in phrase.statuses and phrase.text in said:
            return Verdict(phrase.kind, status, message=phrase.message, late=phrase.late)
    return Verdict(
        otherwise, status, message=_REFUSED_MESSAGE if otherwise is VerdictKind.CLIENT_FAULT else ""
    )
