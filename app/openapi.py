"""The OpenAPI 3.1 document: what tenants can call, from the route table and the wire types, and the admin API.

The relay answers its routes below the framework, so they are described here, operation by operation; tests hold
the description to the route table, the field tables and the refusals. Ollama's management routes are left out:
each of them is the same 403. The admin API describes itself (`app/admin/openapi.py`).
"""

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any, Final

import msgspec

from app import openapi_read_types as reads
from app import openapi_responses as typed
from app import openapi_types as wire
from app.admin import openapi as admin
from app.gateway import token_count
from app.openapi_families import ERRORS, FRAMINGS, PREFIXES, STREAM_TYPES, TAGS
from app.openapi_refusals import (
    ALIVE,
    COUNT,
    HEADER_REFERENCES,
    INFERENCE,
    JSON,
    LISTS,
    MODELS,
    SHOW,
    Refusal,
    refusal_responses,
)
from app.openapi_schemas import reference, schemas_of
from app.problems import problem_of
from domain.routes import RouteSpec, inference_routes
from domain.values import ApiFamily


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


def render_document(*, admin_only: bool = False) -> str:
    """Return the document as JSON text, the same for the same release."""
    described = document(admin_only=admin_only)
    return msgspec.json.format(msgspec.json.encode(described), indent=2).decode() + "\n"


def document(*, admin_only: bool = False) -> dict[str, Any]:
    """Return the OpenAPI document, `admin_only` that of the admin API alone, from which its SDKs are made."""
    parts = _ADMIN_ONLY if admin_only else _WHOLE
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"neuronetz-gateway{' admin' if admin_only else ''}",
            "version": version("neuronetz-gateway"),
            "summary": parts.summary,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The gateway that serves this document."}],
        "security": parts.security,
        "tags": parts.tags,
        "paths": parts.paths(),
        "components": {
            "schemas": parts.schemas(),
            "responses": parts.responses(),
            "headers": _together(_headers(), admin.HEADERS),
            "securitySchemes": parts.security_schemes,
        },
    }


class _Parts(msgspec.Struct, frozen=True):
    """What of a document depends on the surfaces it describes."""

    summary: str
    security: list[dict[str, list[str]]]
    tags: list[dict[str, str]]
    paths: Callable[[], dict[str, Any]]
    schemas: Callable[[], dict[str, Any]]
    responses: Callable[[], dict[str, Any]]
    security_schemes: dict[str, Any]


_ADMIN_ONLY: Final = _Parts(
    summary="What operators do with a gateway.",
    security=admin.SECURITY,
    tags=list(admin.TAGS),
    paths=admin.paths,
    schemas=admin.schemas,
    responses=admin.responses,
    security_schemes=admin.SECURITY_SCHEMES,
)
_WHOLE: Final = _Parts(
    summary="One address and one kind of API key in front of several Ollama servers.",
    security=[{"bearer": []}, {"apiKey": []}, {"basic": []}],
    tags=[*({"name": family.value, "description": text} for family, text in TAGS.items()), *admin.TAGS],
    paths=lambda: _together(_paths(), admin.paths()),
    schemas=lambda: _together(_schemas(), admin.schemas()),
    responses=lambda: _together(refusal_responses(), admin.responses()),
    security_schemes={
        "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer nng_..."},
        "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        "basic": {"type": "http", "scheme": "basic", "description": "The key is the password."},
        **admin.SECURITY_SCHEMES,
    },
)


def _together(tenant: dict[str, Any], of_admin: dict[str, Any]) -> dict[str, Any]:
    """Return both parts, which must not mean different things by one name."""
    twice = tenant.keys() & of_admin.keys()
    if twice:
        raise ValueError(f"both surfaces describe {sorted(twice)}")
    return tenant | dict(sorted(of_admin.items()))


def _paths() -> dict[str, Any]:
    native, openai = ApiFamily.NATIVE, ApiFamily.OPENAI
    alive = _operation("alive", "Say that something is there; needs no key", native, _plain_text(), ALIVE)
    alive["security"] = []
    version_ = _operation("version", "Tell the version of Ollama", native, _answer(wire.Version), LISTS)
    tags = _operation("listTags", "List models", native, _answer(wire.ModelEntries), LISTS)
    loaded = _operation(
        "listLoaded", "List models in memory", native, _answer(reads.LoadedModelEntries), LISTS
    )
    status = _operation("status", "Tell that the cloud is off", native, _answer(reads.CloudStatus), LISTS)
    recommended = _operation(
        "listRecommendations", "Recommend nothing", native, _answer(reads.Recommendations), LISTS
    )
    me = _operation("me", "Tell whose key it is and what is left", native, _answer(reads.Me), LISTS)
    models = _operation("listModels", "List models", openai, _answer(wire.OpenAIModelList), LISTS)
    model = _operation("retrieveModel", "Get a model", openai, _answer(wire.OpenAIModel), MODELS)
    model["parameters"] = [_MODEL_PARAMETER]
    count = _operation(
        "countMessageTokens",
        "Estimate the tokens of a prompt; no model is asked",
        ApiFamily.ANTHROPIC,
        _answer(typed.TokenCount),
        COUNT,
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
    show = _operation("show", "Tell what a model is", ApiFamily.NATIVE, _answer(reads.ShowAnswer), SHOW)
    content = {JSON: {"schema": reference(reads.ShowRequest), "example": {"model": "llama3.2"}}}
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
    operation = _operation(described.operation_id, described.summary, spec.family, content, INFERENCE)
    operation["requestBody"] = _request_body(described.request, described.example)
    return operation


def _request_body(kind: type[msgspec.Struct], example: Mapping[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {JSON: {"schema": reference(kind), "example": example}}}


def _operation(
    operation_id: str,
    summary: str,
    family: ApiFamily,
    content: Mapping[str, Any],
    refusals: Iterable[Refusal],
) -> dict[str, Any]:
    good = {"description": "The answer.", "headers": HEADER_REFERENCES, "content": content}
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
    return {JSON: {"schema": reference(kind)}}


def _stream(family: ApiFamily, record: type[msgspec.Struct]) -> dict[str, Any]:
    one_of = [reference(record), reference(ERRORS[family])]
    return {STREAM_TYPES[family]: {"schema": {"description": FRAMINGS[family], "oneOf": one_of}}}


def _plain_text() -> dict[str, Any]:
    return {"text/plain": {"schema": {"type": "string"}, "example": "Ollama is running"}}


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


def _schemas() -> dict[str, Any]:
    used: tuple[type[msgspec.Struct], ...] = (
        *(kind for each in _INFERENCE.values() for kind in (each.request, each.answer, each.record) if kind),
        *(wire.Version, wire.ModelEntries, wire.OpenAIModel, wire.OpenAIModelList),
        *(reads.LoadedModelEntries, reads.ShowRequest, reads.ShowAnswer, reads.Me),
        *(reads.CloudStatus, reads.Recommendations),
        *(typed.CountTokensRequest, typed.TokenCount),
        *ERRORS.values(),
    )
    return schemas_of(used)
