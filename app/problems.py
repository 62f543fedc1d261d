"""The one table that turns a refusal into an HTTP answer, in the wire format of its API family."""

from collections.abc import Callable
from functools import lru_cache
from math import ceil
from typing import Final, NamedTuple

import msgspec

from app.gateway.limit_headers import headers as limit_headers
from domain.errors import (
    AnswerGivenUp,
    BadRequest,
    BodyTooLarge,
    BodyTooSlow,
    BrokenFraming,
    GatewayError,
    LimitExceeded,
    MethodNotAllowed,
    ModelForbidden,
    NoCandidate,
    PromptTooLarge,
    RejectedUpstream,
    RouteForbidden,
    Unauthenticated,
    Unavailable,
    UnknownPath,
    UnsupportedEncoding,
    UpstreamExhausted,
)
from domain.event_streams import failed_response
from domain.limits import LimitKind
from domain.values import ApiFamily

Headers = tuple[tuple[bytes, bytes], ...]

UNAUTHENTICATED = (
    "A valid API key is required. Send it as 'Authorization: Bearer <key>' or 'x-api-key: <key>'."
)
FORBIDDEN = "The model or operation is not available to this key."
UNKNOWN_PATH = "There is nothing at this path."
METHOD_NOT_ALLOWED = "This path does not support that method; the Allow header lists those it does."
ALL_FAILED = "No backend could answer this request. Try again."
GIVEN_UP = "The model's answer broke off before it was complete. Trying again is likely to end the same way."
NO_CANDIDATE = "All backends for this model are busy or out of reach. Try again later."
UNAVAILABLE = "The gateway cannot take this request at the moment. Try again later."
INTERNAL = "The gateway failed to handle this request. Its operator can find it by the X-Request-ID header."

NEVER_FITS_RETRY_S: Final = 86_400
"""Only an operator can help; a client that goes by Retry-After alone comes back the next day."""

_HOLDERS: Final = {"tenant": "Your tenant's", "key": "This key's"}
_LIMITS: Final = {
    LimitKind.REQUESTS_PER_MINUTE: "limit of {:,} requests per minute",
    LimitKind.TOKENS_PER_MINUTE: "limit of {:,} tokens per minute",
    LimitKind.CONCURRENCY: "limit of {:,} requests at the same time",
    LimitKind.TOKENS_PER_DAY: "quota of {:,} tokens per day",
    LimitKind.TOKENS_PER_MONTH: "quota of {:,} tokens per month",
}
_QUOTAS: Final = frozenset({LimitKind.TOKENS_PER_DAY, LimitKind.TOKENS_PER_MONTH})
_UNITS: Final = ((86_400, "day"), (3600, "hour"), (60, "minute"))
_ANTHROPIC_KINDS: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_DO_NOT_RETRY: Final = ((b"x-should-retry", b"false"),)


class Problem(NamedTuple):
    """A refusal ready to send: status, extra headers, and what the body says."""

    status: int
    message: str
    kind: str
    code: str | None = None
    headers: Headers = ()


def _retry_after(seconds: int) -> Headers:
    return ((b"retry-after", str(seconds).encode()),)


def _method_not_allowed(error: MethodNotAllowed) -> Problem:
    allow = ((b"allow", error.allow.encode()),)
    return Problem(405, METHOD_NOT_ALLOWED, "invalid_request_error", None, allow)


def _bad_request(status: int, code: str | None = None) -> Callable[[BadRequest], Problem]:
    return lambda error: Problem(status, error.message, "invalid_request_error", code)


def _broken_framing(error: BrokenFraming) -> Problem:
    return Problem(400, error.message, "invalid_request_error", None, ((b"connection", b"close"),))


def _limit_exceeded(error: LimitExceeded) -> Problem:
    limit = error.refused.refused
    seconds = max(1, ceil(error.refused.retry_after_s))
    name = f"{_HOLDERS[limit.scope]} {_LIMITS[limit.kind].format(limit.limit)}"
    is_quota = limit.kind in _QUOTAS
    return Problem(
        429,
        f"{name} has no room left for this request. Try again in {_span(seconds)}.",
        "rate_limit_error",
        "insufficient_quota" if is_quota else "rate_limit_exceeded",
        (
            *_retry_after(seconds),
            *limit_headers(error.refused.states),
            # Client libraries try again by themselves, which helps against a rate only.
            *(_DO_NOT_RETRY if is_quota else ()),
        ),
    )


def _prompt_too_large(error: PromptTooLarge) -> Problem:
    return Problem(
        429,
        f"The prompt may need {error.tokens:,} tokens, which is more than a limit of {error.limit:,} tokens"
        " ever has room for. Send a shorter prompt.",
        "rate_limit_error",
        "rate_limit_exceeded",
        (*_retry_after(NEVER_FITS_RETRY_S), *_DO_NOT_RETRY),
    )


def _span(seconds: int) -> str:
    """Return a span in the largest unit that it fills twice, rounded up: nobody is sent back too early."""
    for unit, name in _UNITS:
        if seconds >= 2 * unit:
            return f"{ceil(seconds / unit)} {name}s"
    return f"{seconds} second{'' if seconds == 1 else 's'}"


_UNAUTHENTICATED = Problem(
    401, UNAUTHENTICATED, "invalid_request_error", "invalid_api_key", ((b"www-authenticate", b"Bearer"),)
)
_FORBIDDEN = Problem(403, FORBIDDEN, "permission_error", "not_available")
_INTERNAL = Problem(500, INTERNAL, "api_error")

_TABLE: dict[type[GatewayError], Callable[..., Problem]] = {
    Unauthenticated: lambda _: _UNAUTHENTICATED,
    ModelForbidden: lambda _: _FORBIDDEN,
    RouteForbidden: lambda _: _FORBIDDEN,
    UnknownPath: lambda _: Problem(404, UNKNOWN_PATH, "not_found_error"),
    MethodNotAllowed: _method_not_allowed,
    BadRequest: _bad_request(400),
    BodyTooLarge: _bad_request(413, "body_too_large"),
    BodyTooSlow: _bad_request(408, "body_too_slow"),
    BrokenFraming: _broken_framing,
    UnsupportedEncoding: _bad_request(415, "unsupported_encoding"),
    RejectedUpstream: lambda error: Problem(error.status, error.message, "invalid_request_error"),
    UpstreamExhausted: lambda _: Problem(502, ALL_FAILED, "api_error"),
    AnswerGivenUp: lambda _: Problem(502, GIVEN_UP, "api_error", None, _DO_NOT_RETRY),
    LimitExceeded: _limit_exceeded,
    PromptTooLarge: _prompt_too_large,
    NoCandidate: lambda error: Problem(
        503, NO_CANDIDATE, "api_error", None, _retry_after(error.retry_after_s)
    ),
    Unavailable: lambda error: Problem(
        503, UNAVAILABLE, "api_error", None, _retry_after(error.retry_after_s)
    ),
}


def problem_of(error: Exception) -> Problem:
    """Return what a client is told about `error`; anything unknown is a 500 without details."""
    describe = _TABLE.get(type(error))  # type: ignore[arg-type] # a foreign type is simply not found
    return _INTERNAL if describe is None else describe(error)


def render(problem: Problem, family: ApiFamily, request_id: bytes = b"") -> bytes:
    """Return the JSON body of `problem` as clients of `family` expect it; Anthropic's names the request, if it can."""
    body = _render(problem, family)
    if family is ApiFamily.ANTHROPIC and request_id:
        return b'%b,"request_id":"%b"}' % (body[:-1], request_id)
    return body


def render_event(problem: Problem, family: ApiFamily, request_id: bytes) -> bytes:
    """Return the event that tells of `problem` on a stream of which only heartbeats have left."""
    if family is ApiFamily.RESPONSES:
        code = "invalid_prompt" if problem.status < 500 else "server_error"  # noqa: PLR2004
        return failed_response(problem.message, response_id=f"resp_{request_id.decode()}", code=code)
    kind = b"event: error\n" if family is ApiFamily.ANTHROPIC else b""
    return b"%bdata: %b\n\n" % (kind, _render(problem, family))


@lru_cache(maxsize=256)
def _render(problem: Problem, family: ApiFamily) -> bytes:
    if family is ApiFamily.NATIVE:
        return msgspec.json.encode({"error": problem.message})
    if family is ApiFamily.ANTHROPIC:
        error = {"type": _anthropic_kind(problem.status), "message": problem.message}
        return msgspec.json.encode({"type": "error", "error": error})
    return msgspec.json.encode(
        {"error": {"message": problem.message, "type": problem.kind, "param": None, "code": problem.code}}
    )


def _anthropic_kind(status: int) -> str:
    """Return Anthropic's word for a status; those it has no word for go with the nearest one."""
    kind = _ANTHROPIC_KINDS.get(status)
    if kind is not None:
        return kind
    return "invalid_request_error" if 400 <= status < 500 else "api_error"  # noqa: PLR2004
