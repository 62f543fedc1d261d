"""The one table that turns whatever went wrong below `/admin` into problem details (RFC 9457)."""

from collections.abc import Callable
from typing import Annotated, Final, NamedTuple

import msgspec
from litestar.exceptions import HTTPException, MethodNotAllowedException
from msgspec import UNSET, Meta, UnsetType

from app.admin.errors import (
    CreatedBefore,
    CrossSite,
    CsrfTokenMissing,
    FieldError,
    GrantTaken,
    IdempotencyKeyReused,
    InvalidFields,
    JobBusy,
    JobUnknown,
    PreconditionFailed,
    RedisAway,
    RuleUnknown,
    TooManyLogins,
    WrongMediaType,
)
from app.problems import INTERNAL, METHOD_NOT_ALLOWED, UNAVAILABLE, UNKNOWN_PATH, Headers
from db.postgres import is_outage
from domain.drains import BackendUnknown, ReasonMissing
from domain.errors import (
    BadRequest,
    BodyTooLarge,
    BodyTooSlow,
    BrokenFraming,
    GatewayError,
    MethodNotAllowed,
    Unauthenticated,
    Unavailable,
    UnknownPath,
    UnsupportedEncoding,
)
from domain.option_rules import PolicyInvalid
from domain.rotations import OverlapInvalid
from domain.tenants import (
    ControlError,
    ExpiryPast,
    GrantUnknown,
    KeyUnknown,
    LimitInvalid,
    NameMissing,
    PatternInvalid,
    SlugInvalid,
    TenantUnknown,
    TimeZoneUnknown,
)

PROBLEM_JSON: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:neuronetz-gateway:problem:"
OUTAGE_RETRY_S: Final = 5
UNKEPT: Final[Headers] = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
"""Of every answer below `/admin`: it may hold a key, and is nobody's to keep."""


class Kind(NamedTuple):
    """One kind of problem. `name` ends its `type`, which clients may rely on; so may they on the status."""

    name: str
    status: int
    title: str


INVALID_REQUEST: Final = Kind("invalid-request", 400, "The request is not valid.")
UNAUTHENTICATED_KIND: Final = Kind("unauthenticated", 401, "An admin key is required.")
CROSS_SITE: Final = Kind("cross-site", 403, "Nothing shows that the gateway's own page sent this.")
NOT_FOUND: Final = Kind("not-found", 404, "There is no such thing.")
METHOD_NOT_ALLOWED_KIND: Final = Kind("method-not-allowed", 405, "The path does not support this method.")
BODY_TOO_SLOW: Final = Kind("body-too-slow", 408, "The body took too long to arrive.")
CONFLICT: Final = Kind("conflict", 409, "The change contradicts what is there.")
ALREADY_CREATED: Final = Kind("already-created", 409, "It was created before, and its secret is told once.")
PRECONDITION_FAILED: Final = Kind("precondition-failed", 412, "It has changed since you read it.")
BODY_TOO_LARGE: Final = Kind("body-too-large", 413, "The body is too large.")
UNSUPPORTED_MEDIA_TYPE: Final = Kind("unsupported-media-type", 415, "The body must be plain JSON.")
IDEMPOTENCY_KEY_REUSED: Final = Kind(
    "idempotency-key-reused", 422, "The idempotency key belongs to another request."
)
TOO_MANY_LOGINS: Final = Kind("too-many-logins", 429, "Too many wrong keys came from your address.")
INTERNAL_KIND: Final = Kind("internal", 500, "The gateway failed.")
UNAVAILABLE_KIND: Final = Kind("unavailable", 503, "The gateway cannot do this at the moment.")

KINDS: Final = (
    INVALID_REQUEST, UNAUTHENTICATED_KIND, CROSS_SITE, NOT_FOUND, METHOD_NOT_ALLOWED_KIND, BODY_TOO_SLOW,
    CONFLICT, ALREADY_CREATED, PRECONDITION_FAILED, BODY_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE,
    IDEMPOTENCY_KEY_REUSED, TOO_MANY_LOGINS, INTERNAL_KIND, UNAVAILABLE_KIND,
)  # fmt: skip


class Problem(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What went wrong with a request (RFC 9457)."""

    type: Annotated[str, Meta(description="Names the kind of problem; stays the same in later releases.")]
    title: Annotated[str, Meta(description="What this kind of problem is, for people.")]
    status: Annotated[int, Meta(description="The HTTP status.", ge=400, le=599)]
    detail: Annotated[str, Meta(description="What is wrong this time, for people.")]
    request_id: Annotated[str, Meta(description="The X-Request-ID of this answer; the log has it too.")]
    errors: (
        Annotated[tuple[FieldError, ...], Meta(description="Each field or parameter at fault.")] | UnsetType
    ) = UNSET


class Told(NamedTuple):
    """A problem ready to send, but for the request's id."""

    kind: Kind
    detail: str
    errors: tuple[FieldError, ...] = ()
    headers: Headers = ()

    def body(self, request_id: str) -> bytes:
        """Return the JSON of the problem."""
        return msgspec.json.encode(
            Problem(
                type=TYPE_PREFIX + self.kind.name,
                title=self.kind.title,
                status=self.kind.status,
                detail=self.detail,
                request_id=request_id,
                errors=self.errors or UNSET,
            )
        )


_BEARER: Final[Headers] = ((b"www-authenticate", b"Bearer"),)


def _retry_after(seconds: int) -> Headers:
    return ((b"retry-after", str(seconds).encode()),)


def _invalid_fields(error: InvalidFields) -> Told:
    return _invalid(error.errors)


def _invalid(errors: tuple[FieldError, ...]) -> Told:
    many = "" if len(errors) == 1 else f" ({len(errors)} things are wrong.)"
    first = errors[0]
    where = first.parameter if isinstance(first.parameter, str) else str(first.pointer).removeprefix("#")[1:]
    return Told(INVALID_REQUEST, f"{where and f'{where}: '}{first.detail}{many}", errors)


def _too_many_logins(error: TooManyLogins) -> Told:
    return Told(
        TOO_MANY_LOGINS,
        "Too many wrong keys were presented from your address lately. Keys that have worked from there before"
        f" still do. Try another one in {error.retry_after_s} seconds.",
        headers=_retry_after(error.retry_after_s),
    )


def _bad_request(kind: Kind) -> Callable[[BadRequest], Told]:
    return lambda error: Told(kind, sentence(error.message))


def _fixed(kind: Kind, detail: str, headers: Headers = ()) -> Callable[[Exception], Told]:
    told = Told(kind, detail, headers=headers)
    return lambda _: told


def _field(pointer: str) -> Callable[[ControlError], Told]:
    return lambda error: _invalid((FieldError(sentence(str(error)), pointer=pointer),))


_INTERNAL: Final = Told(INTERNAL_KIND, INTERNAL)
_OUTAGE: Final = Told(UNAVAILABLE_KIND, UNAVAILABLE, headers=_retry_after(OUTAGE_RETRY_S))

_TABLE: Final[dict[type[Exception], Callable[..., Told]]] = {
    Unauthenticated: _fixed(
        UNAUTHENTICATED_KIND,
        "Send an admin key that works as 'Authorization: Bearer <key>' or 'x-api-key: <key>'.",
        _BEARER,
    ),
    UnknownPath: _fixed(NOT_FOUND, UNKNOWN_PATH),
    MethodNotAllowed: lambda error: Told(
        METHOD_NOT_ALLOWED_KIND, METHOD_NOT_ALLOWED, headers=((b"allow", error.allow.encode()),)
    ),
    BadRequest: _bad_request(INVALID_REQUEST),
    BodyTooLarge: _bad_request(BODY_TOO_LARGE),
    BodyTooSlow: _bad_request(BODY_TOO_SLOW),
    BrokenFraming: lambda error: Told(
        INVALID_REQUEST, sentence(error.message), headers=((b"connection", b"close"),)
    ),
    UnsupportedEncoding: _fixed(
        UNSUPPORTED_MEDIA_TYPE, "Send the body uncompressed: no Content-Encoding is supported here."
    ),
    Unavailable: lambda error: Told(UNAVAILABLE_KIND, UNAVAILABLE, headers=_retry_after(error.retry_after_s)),
    InvalidFields: _invalid_fields,
    CrossSite: _fixed(
        CROSS_SITE, "A browser sent this on behalf of a page of another site. Use a client of your own."
    ),
    CsrfTokenMissing: _fixed(
        CROSS_SITE,
        "A session may do this only with its own token as X-CSRF-Token; a program sends an admin key.",
    ),
    JobUnknown: _fixed(NOT_FOUND, "There is no such job, or no such run of one any more."),
    JobBusy: lambda error: Told(CONFLICT, error.why),
    RedisAway: _fixed(
        UNAVAILABLE_KIND,
        "Redis cannot be asked at the moment. Jobs and the dashboard's sessions are kept there; try again.",
        _retry_after(OUTAGE_RETRY_S),
    ),
    PreconditionFailed: _fixed(
        PRECONDITION_FAILED, "Its ETag is not the one in If-Match any more. Read it again, then decide."
    ),
    WrongMediaType: _fixed(UNSUPPORTED_MEDIA_TYPE, "Send the body as 'Content-Type: application/json'."),
    TooManyLogins: _too_many_logins,
    TenantUnknown: lambda error: Told(NOT_FOUND, sentence(str(error))),
    # Without what was asked for: another tenant's key and none give the same bytes.
    KeyUnknown: _fixed(NOT_FOUND, "There is no key of this prefix or id here."),
    GrantUnknown: _fixed(NOT_FOUND, "There is no grant of this id here."),
    RuleUnknown: _fixed(NOT_FOUND, "No rule stands here for this field; what is less specific decides."),
    GrantTaken: lambda error: Told(CONFLICT, f"The grant {error.pattern!r} is there already."),
    CreatedBefore: lambda error: Told(
        ALREADY_CREATED,
        "This request has created it before; Location says where it is. Whoever lost its secret revokes it and"
        " creates another one.",
        headers=((b"location", error.location.encode()),),
    ),
    IdempotencyKeyReused: _fixed(
        IDEMPOTENCY_KEY_REUSED,
        "This Idempotency-Key came with another request before. Choose a new one for each creation.",
    ),
    BackendUnknown: lambda error: Told(NOT_FOUND, sentence(str(error))),
    ReasonMissing: _field("#/reason"),
    SlugInvalid: _field("#/slug"),
    NameMissing: _field("#/name"),
    OverlapInvalid: _field("#/overlapSeconds"),
    TimeZoneUnknown: _field("#/timeZone"),
    ExpiryPast: _field("#/expiresAt"),
    PatternInvalid: _field("#/pattern"),
    PolicyInvalid: lambda error: _invalid(
        (FieldError(sentence(str(error)), pointer=f"#/{error.part}" if error.part else "#"),)
    ),
    LimitInvalid: lambda error: Told(INVALID_REQUEST, sentence(str(error))),
}


def told(error: Exception) -> Told:
    """Return what a caller is told about `error`; anything unknown is a 500 without details."""
    describe = _TABLE.get(type(error))
    if describe is not None:
        return describe(error)
    if isinstance(error, ControlError):
        # Whatever else the control plane refuses is refused because of what is there.
        return Told(CONFLICT, sentence(str(error)))
    if isinstance(error, HTTPException):
        return _of_framework(error)
    return _OUTAGE if not isinstance(error, GatewayError) and is_outage(error) else _INTERNAL


def _of_framework(error: HTTPException) -> Told:
    if isinstance(error, MethodNotAllowedException):
        allow = str((error.headers or {}).get("allow", ""))
        return told(MethodNotAllowed(allow))
    if error.status_code == NOT_FOUND.status:
        return told(UnknownPath())
    if error.status_code < INTERNAL_KIND.status:
        return Told(INVALID_REQUEST, "The request is malformed.")
    return _INTERNAL


def sentence(text: str) -> str:
    """Return a text as a sentence."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
