"""The OpenAPI 3.1 description of what tenants can call, made from the route table and the wire types.

The relay answers its routes below the framework, so they are described here, operation by operation; tests hold
the description to the route table, the field tables and the refusals. Ollama's management routes are left out:
each of them is the same 403.
"""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, Final

import msgspec

from app import openapi_read_types as reads
from app import openapi_responses as typed
from app import openapi_types as wire
from app.gateway import token_count
from app.openapi_families import ERRORS, FRAMINGS, PREFIXES, STREAM_TYPES, TAGS
from app.problems import problem_of, render
from domain.errors import (
    BadRequest,
    BodyTooLarge,
    BodyTooSlow,
    GatewayError,
    LimitExceeded,
    ModelForbidden,
    NoCandidate,
    Unauthenticated,
    UnknownPath,
    UnsupportedEncoding,
    UpstreamExhausted,
)
from domain.limits import LimitKind, LimitState, Refused
from domain.routes import RouteSpec, inference_routes
from domain.values import ApiFamily

JSON: Final = "application/json"
_REQUEST_ID: Final = b"019a0000-0000-7000-8000-000000000000"
"""Stands for the request's id in examples."""
_SCHEMAS: Final = "#/components/schemas/{name}"


class _Refusal(msgspec.Struct, frozen=True):
    """A refusal as it is described; `example` is one that the gateway really answers."""

    name: str
    description: str
    example: GatewayError


_UNAUTHENTICATED = _Refusal("Unauthenticated", "No valid key was presented.", Unauthenticated())
_FORBIDDEN = _Refusal(
    "Forbidden", "The model does not exist or the key may not use it; which, is not told.", ModelForbidden()
)
_UNKNOWN_PATH = _Refusal("UnknownPath", "Nothing is at this path.", UnknownPath())
_BAD_REQUEST = _Refusal("BadRequest", "The request itself is at fault.", BadRequest("'model' is required."))
_BODY_REFUSALS: Final = (
    _Refusal("BodyTooSlow", "The body did not arrive in time.", BodyTooSlow("The body took too long.")),
    _Refusal("BodyTooLarge", "The body is too large.", BodyTooLarge("The body is too large.")),
    _Refusal(
        "UnsupportedEncoding",
        "The body is compressed in a way that is not understood.",
        UnsupportedEncoding("Send the body without compression."),
    ),
)
_COUNT_REFUSALS: Final = (_BAD_REQUEST, _UNAUTHENTICATED, _FORBIDDEN, *_BODY_REFUSALS)
_LIST_REFUSALS: Final = (_UNAUTHENTICATED,)
_MODEL_REFUSALS: Final = (_UNAUTHENTICATED, _FORBIDDEN, _UNKNOWN_PATH)
_SPENT: Final = LimitState(LimitKind.REQUESTS_PER_MINUTE, "key", limit=60, remaining=0, reset_s=60.0)
_INFERENCE_REFUSALS: Final = (
    *_COUNT_REFUSALS,
    _Refusal(
        "LimitExceeded",
        "A limit of the key or of its tenant has no room; come back after Retry-After, unless x-should-retry is"
        " false.",
        LimitExceeded(Refused(_SPENT, 12.0, (_SPENT,))),
    ),
    _Refusal("AllFailed", "Every backend that was tried failed.", UpstreamExhausted()),
    _Refusal("Busy", "Nothing can be tried now; come back after Retry-After.", NoCandidate(retry_after_s=5)),
)


_SHOW_REFUSALS: Final = tuple(
    refusal for refusal in _INFERENCE_REFUSALS if refusal.name not in {"LimitExceeded", "Busy"}
)


class _Inference(msgspec.Struct, frozen=True):
    """How one inference route is described. `record` is what a stream consists of."""

    operation_id: str
    summary: str
    request: type[msgspec.Struct]
    answer: type[msgspec.Struct]
    example: dict[str, Any]
    record: type[msgspec.Struct] | None = None


_MESSAGES: Final = [{"role": "user", "content": "Why is the sky blue?"}]
_INFERENCE: Final[dict[str, _Inference]] = {
    "/api/generate": _Inference(
        "generate",
        "Continue a prompt",
        wire.GenerateRequest,
        wire.GenerateRecord,
        {"model": "llama3.2", "prompt": "Why is the sky blue?"},
        wire.GenerateRecord,
    ),
    "/api/chat": _Inference(
        "chat",
        "Continue a conversation",
        wire.ChatRequest,
        wire.ChatRecord,
        {"model": "llama3.2", "messages": _MESSAGES},
        wire.ChatRecord,
    ),
    "/api/embed": _Inference(
        "embed",
        "Embed texts",
        wire.EmbedRequest,
        wire.EmbedAnswer,
        {"model": "nomic-embed-text", "input": ["first", "second"]},
    ),
    "/api/embeddings": _Inference(
        "embedOne",
        "Embed one text, the older way",
        wire.EmbeddingsRequest,
        wire.EmbeddingsAnswer,
        {"model": "nomic-embed-text", "prompt": "one text"},
    ),
    "/v1/chat/completions": _Inference(
        "createChatCompletion",
        "Continue a conversation",
        wire.ChatCompletionRequest,
        wire.ChatCompletion,
        {"model": "llama3.2", "messages": _MESSAGES, "stream": True},
        wire.ChatCompletionChunk,
    ),
    "/v1/completions": _Inference(
        "createCompletion",
        "Continue a prompt",
        wire.CompletionRequest,
        wire.Completion,
        {"model": "llama3.2", "prompt": "The sky is"},
        wire.Completion,
    ),
    "/v1/embeddings": _Inference(
        "createEmbedding",
        "Embed texts",
        wire.OpenAIEmbeddingsRequest,
        wire.EmbeddingList,
        {"model": "nomic-embed-text", "input": ["first", "second"]},
    ),
    "/v1/responses": _Inference(
        "createResponse",
        "Continue a conversation",
        typed.ResponsesRequest,
        typed.Response,
        {"model": "llama3.2", "input": "Why is the sky blue?", "stream": True},
        typed.ResponseEvent,
    ),
    "/v1/messages": _Inference(
        "createMessage",
        "Continue a conversation",
        typed.MessagesRequest,
        typed.AnthropicMessage,
        {"model": "llama3.2", "max_tokens": 1024, "messages": _MESSAGES, "stream": True},
        typed.AnthropicEvent,
    ),
}


def render_document() -> str:
    """Return the document as JSON text, the same for the same release."""
    return msgspec.json.format(msgspec.json.encode(document()), indent=2).decode() + "\n"


def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "neuronetz-gateway",
            "version": version("neuronetz-gateway"),
            "summary": "One address and one kind of API key in front of several Ollama servers.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The gateway that serves this document."}],
        "security": [{"bearer": []}, {"apiKey": []}, {"basic": []}],
        "tags": [{"name": family.value, "description": text} for family, text in TAGS.items()],
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "responses": _refusal_responses(),
            "headers": _headers(),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Authorization: Bearer nng_...",
                },
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "basic": {"type": "http", "scheme": "basic", "description": "The key is the password."},
            },
        },
    }


def _paths() -> dict[str, Any]:
    native, openai = ApiFamily.NATIVE, ApiFamily.OPENAI
    alive = _operation("alive", "Say that something is there; needs no key", native, _plain_text(), ())
    alive["security"] = []
    version_ = _operation(
        "version", "Tell the version of Ollama", native, _answer(wire.Version), _LIST_REFUSALS
    )
    tags = _operation("listTags", "List models", native, _answer(wire.ModelEntries), _LIST_REFUSALS)
    loaded = _operation(
        "listLoaded", "List models in memory", native, _answer(reads.LoadedModelEntries), _LIST_REFUSALS
    )
    status = _operation(
        "status", "Tell that the cloud is off", native, _answer(reads.CloudStatus), _LIST_REFUSALS
    )
    recommended = _operation(
        "listRecommendations", "Recommend nothing", native, _answer(reads.Recommendations), _LIST_REFUSALS
    )
    me = _operation("me", "Tell whose key it is and what is left", native, _answer(reads.Me), _LIST_REFUSALS)
    models = _operation("listModels", "List models", openai, _answer(wire.OpenAIModelList), _LIST_REFUSALS)
    model = _operation("retrieveModel", "Get a model", openai, _answer(wire.OpenAIModel), _MODEL_REFUSALS)
    model["parameters"] = [_MODEL_PARAMETER]
    count = _operation(
        "countMessageTokens",
        "Estimate the tokens of a prompt; no model is asked",
        ApiFamily.ANTHROPIC,
        _answer(typed.TokenCount),
        _COUNT_REFUSALS,
    )
    count["requestBody"] = _request_body(
        typed.CountTokensRequest, {"model": "llama3.2", "messages": _MESSAGES}
    )
    return {
        "/": _readable(alive),
        "/api/version": _readable(version_),
        "/api/tags": _readable(tags),
        "/api/ps": {"get": loaded},
        "/api/show": {"post": _show()},
        "/api/status": {"get": status},
        "/api/experimental/model-recommendations": {"get": recommended},
        "/me": {"get": me},
        "/v1/models": {"get": models},
        "/v1/models/{model_id}": {"get": model},
        **{path: {"post": _inference(spec)} for path, spec in inference_routes().items()},
        token_count.PATH: {"post": count},
    }


_MODEL_PARAMETER: Final[dict[str, Any]] = {
    "name": "model_id",
    "in": "path",
    "required": True,
    "description": "The model's name; slashes in it stay slashes.",
    "schema": {"type": "string"},
    "example": "llama3.2:latest",
}


def _show() -> dict[str, Any]:
    show = _operation(
        "show", "Tell what a model is", ApiFamily.NATIVE, _answer(reads.ShowAnswer), _SHOW_REFUSALS
    )
    content = {JSON: {"schema": _reference(reads.ShowRequest), "example": {"model": "llama3.2"}}}
    show["requestBody"] = {"required": True, "content": content}
    return show


def _readable(get: dict[str, Any]) -> dict[str, Any]:
    """Return the operations of a path that answers HEAD as it answers GET, without the body."""
    head = {
        **get,
        "operationId": f"{get['operationId']}Head",
        "responses": {
            status: {name: part for name, part in response.items() if name != "content"}
            for status, response in get["responses"].items()
        },
    }
    return {"get": get, "head": head}


def _inference(spec: RouteSpec) -> dict[str, Any]:
    described = _INFERENCE[spec.path]
    content = _answer(described.answer)
    if described.record is not None:
        content |= _stream(spec.family, described.record)
    operation = _operation(
        described.operation_id, described.summary, spec.family, content, _INFERENCE_REFUSALS
    )
    operation["requestBody"] = _request_body(described.request, described.example)
    return operation


def _request_body(kind: type[msgspec.Struct], example: Mapping[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {JSON: {"schema": _reference(kind), "example": example}}}


def _operation(
    operation_id: str,
    summary: str,
    family: ApiFamily,
    content: Mapping[str, Any],
    refusals: Iterable[_Refusal],
) -> dict[str, Any]:
    good = {"description": "The answer.", "headers": _HEADER_REFERENCES, "content": content}
    return {
        "operationId": operation_id,
        "summary": summary,
        "tags": [family.value],
        "responses": {
            "200": good,
            **{
                str(problem_of(refusal.example).status): {
                    "$ref": f"#/components/responses/{PREFIXES[family]}{refusal.name}"
                }
                for refusal in refusals
            },
        },
    }


def _answer(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {JSON: {"schema": _reference(kind)}}


def _stream(family: ApiFamily, record: type[msgspec.Struct]) -> dict[str, Any]:
    one_of = [_reference(record), _reference(ERRORS[family])]
    return {STREAM_TYPES[family]: {"schema": {"description": FRAMINGS[family], "oneOf": one_of}}}


def _plain_text() -> dict[str, Any]:
    return {"text/plain": {"schema": {"type": "string"}, "example": "Ollama is running"}}


def _refusal_responses() -> dict[str, Any]:
    used = {
        ApiFamily.NATIVE: _INFERENCE_REFUSALS,
        ApiFamily.OPENAI: (*_INFERENCE_REFUSALS, _UNKNOWN_PATH),
        ApiFamily.ANTHROPIC: _INFERENCE_REFUSALS,
    }
    return {
        f"{PREFIXES[family]}{refusal.name}": _refusal_response(refusal, family)
        for family, refusals in used.items()
        for refusal in refusals
    }


def _refusal_response(refusal: _Refusal, family: ApiFamily) -> dict[str, Any]:
    problem = problem_of(refusal.example)
    headers = dict(_HEADER_REFERENCES)
    if any(name == b"retry-after" for name, _ in problem.headers):
        headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
    return {
        "description": refusal.description,
        "headers": headers,
        "content": {
            JSON: {
                "schema": _reference(ERRORS[family]),
                "example": msgspec.json.decode(render(problem, family, _REQUEST_ID)),
            }
        },
    }


_HEADER_REFERENCES: Final = {"X-Request-ID": {"$ref": "#/components/headers/RequestId"}}


def _headers() -> dict[str, Any]:
    return {
        "RequestId": {
            "description": "The request's id, by which its usage record and the gateway's log lines are found.",
            "schema": {"type": "string", "format": "uuid"},
        },
        "RetryAfter": {
            "description": "Seconds after which to try again.",
            "schema": {"type": "integer", "minimum": 1},
        },
    }


def _reference(kind: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": _SCHEMAS.format(name=kind.__name__)}


def _schemas() -> dict[str, Any]:
    used = (
        *(kind for each in _INFERENCE.values() for kind in (each.request, each.answer, each.record) if kind),
        *(wire.Version, wire.ModelEntries, wire.OpenAIModel, wire.OpenAIModelList),
        *(reads.LoadedModelEntries, reads.ShowRequest, reads.ShowAnswer, reads.Me),
        *(reads.CloudStatus, reads.Recommendations),
        *(typed.CountTokensRequest, typed.TokenCount),
        *ERRORS.values(),
    )
    _, components = msgspec.json.schema_components(dict.fromkeys(used), ref_template=_SCHEMAS)
    return {name: components[name] for name in sorted(components)}
