"""The admin surface's part of the OpenAPI document.

Paths and parameters are what the framework found out about the handlers; schemas come from the contracts themselves,
and refusals from the table that answers them.
"""

from collections.abc import Iterator
from types import NoneType
from typing import Any, Final, NoReturn

import msgspec
from litestar import Response
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from app.admin.administration import MAX_BODY_BYTES
from app.admin.errors import (
    CrossSite,
    IdempotencyKeyReused,
    PreconditionFailed,
    TooManyLogins,
    WrongMediaType,
)
from app.admin.problems import PROBLEM_JSON, Problem, Told, told
from app.admin.surface import ROOT, admin_service
from app.gateway.body import TOO_SLOW, too_large
from app.openapi_schemas import reference, schemas_of
from domain.errors import BodyTooSlow, Unauthenticated, Unavailable
from domain.tenants import SlugTaken, TenantUnknown, TimeZoneUnknown

_EXAMPLE_ID: Final = "01977f00-0000-7000-8000-000000000000"
_REPEATED: Final = frozenset({"deprecated", "allowEmptyValue", "allowReserved", "schema"})
SECURITY: Final[list[dict[str, list[str]]]] = [{"adminBearer": []}, {"adminApiKey": []}]
_CREATED: Final = "201"
_METHODS: Final = ("get", "post", "put", "patch", "delete", "options")

_REFUSALS: Final[dict[str, tuple[str, Exception]]] = {
    "AdminInvalidRequest": (
        "The body or a parameter is not valid; `errors` says which and why.",
        TimeZoneUnknown("Europe/Atlantis"),
    ),
    "AdminUnauthenticated": ("No admin key that works was presented.", Unauthenticated()),
    "AdminCrossSite": ("A page of another site made a browser send this.", CrossSite()),
    "AdminNotFound": ("Nothing of that name is here.", TenantUnknown("research")),
    "AdminBodyTooSlow": ("The body did not arrive in time.", BodyTooSlow(TOO_SLOW)),
    "AdminConflict": ("It contradicts what is there.", SlugTaken("research")),
    "AdminPreconditionFailed": ("It has changed since the ETag was read.", PreconditionFailed()),
    "AdminBodyTooLarge": ("The body is too large.", too_large(MAX_BODY_BYTES)),
    "AdminWrongMediaType": ("The body is not declared to be plain JSON.", WrongMediaType()),
    "AdminIdempotencyKeyReused": (
        "The idempotency key belongs to another request.",
        IdempotencyKeyReused(),
    ),
    "AdminTooManyLogins": (
        "Too many wrong keys came from the caller's address; come back after Retry-After.",
        TooManyLogins(540),
    ),
    "AdminUnavailable": (
        "A store cannot be asked at the moment; come back after Retry-After.",
        Unavailable("key_store_unreachable"),
    ),
}
_BY_STATUS: Final = {told(error).kind.status: name for name, (_, error) in _REFUSALS.items()}
_ALWAYS: Final = (400, 401, 429, 503)
_WITH_BODY: Final = (403, 408, 413, 415)

TAGS: Final = (
    {"name": "me", "description": "Admin API: the caller's own key."},
    {"name": "tenants", "description": "Admin API: owners of keys, grants, limits and usage."},
    {"name": "keys", "description": "Admin API: what tenants' callers and operators prove themselves with."},
    {"name": "limits", "description": "Admin API: how much a tenant and its keys may use."},
    {"name": "grants", "description": "Admin API: which models a tenant and its keys may use."},
    {"name": "policies", "description": "Admin API: what requests may ask of the models they share."},
    {"name": "audit", "description": "Admin API: who changed what, and who logged in or failed to."},
    {"name": "revocations", "description": "Admin API: how far each process follows what was revoked."},
    {
        "name": "backends",
        "description": "Admin API: the Ollama servers, their live state, and their service.",
    },
    {"name": "models", "description": "Admin API: which backend hosts what."},
    {"name": "usage", "description": "Admin API: the ledger as rows, as sums and as a file."},
    {"name": "jobs", "description": "Admin API: what the workers do, and doing it now."},
    {"name": "configuration", "description": "Admin API: the settings in force."},
)
SECURITY_SCHEMES: Final[dict[str, Any]] = {
    "adminBearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer nnga_..."},
    "adminApiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "x-api-key: nnga_...",
    },
}
HEADERS: Final[dict[str, Any]] = {
    "ETag": {
        "description": "What it is like now; give it back in If-Match.",
        "schema": {"type": "string"},
    },
    "Location": {
        "description": "Where it is from now on.",
        "schema": {"type": "string", "format": "uri-reference"},
    },
}


def paths() -> dict[str, Any]:
    """Return the operations by path and method."""
    service = admin_service(_nobody, described=True)
    found = service.openapi_schema.to_schema()["paths"]
    described: dict[str, Any] = {}
    for path, method, handler in _handlers(service.routes):
        described.setdefault(path, {})[method] = _operation(found[path][method], path, method, handler)
    return described


def schemas() -> dict[str, Any]:
    """Return the schemas of all contracts by name."""
    service = admin_service(_nobody)
    used = [kind for _, _, handler in _handlers(service.routes) for kind in _contracts(handler)]
    return schemas_of([*used, Problem])


def responses() -> dict[str, Any]:
    """Return the refusals by name."""
    return {name: _refusal(description, told(error)) for name, (description, error) in _REFUSALS.items()}


def _nobody() -> NoReturn:
    raise RuntimeError("what only describes itself serves nobody")


def _handlers(routes: Any) -> list[tuple[str, str, HTTPRouteHandler]]:
    """Return path, method and handler of each operation of the API, in the order of a reader's questions."""
    found = {
        (route.path_format, str(method).lower()): handler
        for route in routes
        if isinstance(route, HTTPRoute) and route.path.startswith(f"{ROOT}/")
        for handler in route.route_handlers
        for method in handler.http_methods
    }
    # The framework answers OPTIONS by itself, and nobody needs to be told.
    return [
        (path, method, handler)
        for (path, method), handler in sorted(
            found.items(), key=lambda each: (each[0][0], _METHODS.index(each[0][1]))
        )
        if method != "options"
    ]


def _contracts(handler: HTTPRouteHandler) -> Iterator[type[msgspec.Struct]]:
    signature = handler.parsed_fn_signature
    answer = signature.return_type
    if "lines" in handler.opt:
        yield from (kind for kind in handler.opt["lines"].values() if kind is not None)
        return
    kind = answer.inner_types[0].annotation if answer.is_subclass_of(Response) else answer.annotation
    if kind is not NoneType:
        yield kind
    if "data" in signature.parameters:
        yield signature.parameters["data"].annotation


def _operation(found: dict[str, Any], path: str, method: str, handler: HTTPRouteHandler) -> dict[str, Any]:
    statuses = [*_ALWAYS, *handler.opt.get("refuses", ())]
    if "{" in path:
        statuses.append(404)
    if method != "get":
        statuses += _WITH_BODY
    good = next(status for status in found["responses"] if status.startswith("2"))
    operation = {
        "operationId": found["operationId"],
        "summary": found["summary"].format(**handler.opt),
        "tags": found["tags"],
        "security": SECURITY,
    }
    if "parameters" in found:
        operation["parameters"] = [_parameter(each) for each in found["parameters"]]
    if "requestBody" in found:
        operation["requestBody"] = _body(found["requestBody"])
    operation["responses"] = {
        good: _answer(_lines(handler) or found["responses"][good].get("content"), _headers(handler, good)),
        **{
            str(status): {"$ref": f"#/components/responses/{_BY_STATUS[status]}"}
            for status in sorted(statuses)
        },
    }
    return operation


def _answer(content: dict[str, Any] | None, headers: dict[str, Any]) -> dict[str, Any]:
    if content is None:
        return {"description": "It is done.", "headers": headers}
    return {"description": "The answer.", "headers": headers, "content": content}


def _lines(handler: HTTPRouteHandler) -> dict[str, Any]:
    """Return the media types of an answer that is made of lines, each with the schema of one line."""
    return {
        media_type: {"schema": {"type": "string"} if kind is None else reference(kind)}
        for media_type, kind in handler.opt.get("lines", {}).items()
    }


def _parameter(found: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter without what the framework only repeats; one that is not given is not null."""
    schema = {key: value for key, value in found["schema"].items() if key not in {"oneOf", "description"}}
    for variant in found["schema"].get("oneOf", ()):
        if variant != {"type": "null"}:
            schema = variant | schema
    # The framework's bounds are floats whatever they bound.
    schema = {key: int(value) if isinstance(value, float) else value for key, value in schema.items()}
    return {key: value for key, value in found.items() if key not in _REPEATED} | {"schema": schema}


def _body(found: dict[str, Any]) -> dict[str, Any]:
    ((media_type, content),) = found["content"].items()
    (reference,) = content["schema"]["allOf"]
    (example,) = content["schema"]["examples"]
    return {"required": True, "content": {media_type: {"schema": reference, "example": example}}}


def _headers(handler: HTTPRouteHandler, status: str) -> dict[str, Any]:
    names = ["ETag"] if handler.opt.get("etag") else []
    names += ["Location"] if status == _CREATED else []
    return {
        "X-Request-ID": {"$ref": "#/components/headers/RequestId"},
        **{name: {"$ref": f"#/components/headers/{name}"} for name in names},
    }


def _refusal(description: str, problem: Told) -> dict[str, Any]:
    headers = {"X-Request-ID": {"$ref": "#/components/headers/RequestId"}}
    if any(name == b"retry-after" for name, _ in problem.headers):
        headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
    return {
        "description": description,
        "headers": headers,
        "content": {
            PROBLEM_JSON: {
                "schema": reference(Problem),
                "example": msgspec.json.decode(problem.body(_EXAMPLE_ID)),
            }
        },
    }
