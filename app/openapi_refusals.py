"""The refusals of the tenant surface as the OpenAPI document describes them; the examples are real ones."""

from typing import Any, Final

import msgspec

from app.gateway.body import TOO_SLOW, UNCOMPRESSED, too_large
from app.openapi_families import ERRORS, PREFIXES
from app.openapi_schemas import reference
from app.problems import problem_of, render
from domain.errors import (
    BadRequest,
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
from domain.requests import MODEL_REQUIRED
from domain.values import ApiFamily

JSON: Final = "application/json"
HEADER_REFERENCES: Final = {"X-Request-ID": {"$ref": "#/components/headers/RequestId"}}
_REQUEST_ID: Final = b"019a0000-0000-7000-8000-000000000000"
"""Stands for the request's id in examples."""
_LIMIT: Final = 32 * 1024 * 1024


class Refusal(msgspec.Struct, frozen=True):
    """A refusal as it is described; `example` is one that the gateway really answers."""

    name: str
    description: str
    example: GatewayError


_UNAUTHENTICATED = Refusal("Unauthenticated", "No valid key was presented.", Unauthenticated())
_FORBIDDEN = Refusal(
    "Forbidden", "The model does not exist or the key may not use it; which, is not told.", ModelForbidden()
)
_UNKNOWN_PATH = Refusal("UnknownPath", "Nothing is at this path.", UnknownPath())
_BAD_REQUEST = Refusal("BadRequest", "The request itself is at fault.", BadRequest(MODEL_REQUIRED))
_BODY_REFUSALS: Final = (
    Refusal("BodyTooSlow", "The body did not arrive in time.", BodyTooSlow(TOO_SLOW)),
    Refusal("BodyTooLarge", "The body is too large.", too_large(_LIMIT)),
    Refusal(
        "UnsupportedEncoding",
        "The body is compressed in a way that is not understood.",
        UnsupportedEncoding(UNCOMPRESSED),
    ),
)
COUNT: Final = (_BAD_REQUEST, _UNAUTHENTICATED, _FORBIDDEN, *_BODY_REFUSALS)
ALIVE: Final = (_BAD_REQUEST,)
LISTS: Final = (*ALIVE, _UNAUTHENTICATED)
MODELS: Final = (*LISTS, _FORBIDDEN, _UNKNOWN_PATH)
_SPENT: Final = LimitState(LimitKind.REQUESTS_PER_MINUTE, "key", limit=60, remaining=0, reset_s=60.0)
INFERENCE: Final = (
    *COUNT,
    Refusal(
        "LimitExceeded",
        "A limit of the key or of its tenant has no room; come back after Retry-After, unless x-should-retry is"
        " false.",
        LimitExceeded(Refused(_SPENT, 12.0, (_SPENT,))),
    ),
    Refusal(
        "AllFailed",
        "Every backend that was tried failed, or a model's answer ended before it was complete.",
        UpstreamExhausted(),
    ),
    Refusal("Busy", "Nothing can be tried now; come back after Retry-After.", NoCandidate(retry_after_s=5)),
)


SHOW: Final = tuple(refusal for refusal in INFERENCE if refusal.name not in {"LimitExceeded", "Busy"})


def refusal_responses() -> dict[str, Any]:
    """Return every refusal that any operation refers to, by name."""
    used = {
        ApiFamily.NATIVE: INFERENCE,
        ApiFamily.OPENAI: (*INFERENCE, _UNKNOWN_PATH),
        ApiFamily.ANTHROPIC: INFERENCE,
    }
    return {
        f"{PREFIXES[family]}{refusal.name}": _refusal_response(refusal, family)
        for family, refusals in used.items()
        for refusal in refusals
    }


def _refusal_response(refusal: Refusal, family: ApiFamily) -> dict[str, Any]:
    problem = problem_of(refusal.example)
    headers = dict(HEADER_REFERENCES)
    if any(name == b"retry-after" for name, _ in problem.headers):
        headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
    return {
        "description": refusal.description,
        "headers": headers,
        "content": {
            JSON: {
                "schema": reference(ERRORS[family]),
                "example": msgspec.json.decode(render(problem, family, _REQUEST_ID)),
            }
        },
    }
