"""The table from refusal to HTTP: complete, in each family's shape, and silent about what went on inside."""

import msgspec
import pytest

from app.problems import FORBIDDEN, INTERNAL, problem_of, render
from domain import errors
from domain.errors import (
    BadRequest,
    BodyTooLarge,
    BodyTooSlow,
    GatewayError,
    MethodNotAllowed,
    ModelForbidden,
    NoCandidate,
    RejectedUpstream,
    RouteForbidden,
    Sent,
    Unauthenticated,
    Unavailable,
    UnknownPath,
    UnsupportedEncoding,
    UpstreamExhausted,
    UpstreamFailed,
)
from domain.values import ApiFamily

NATIVE, OPENAI = ApiFamily.NATIVE, ApiFamily.OPENAI

TABLE: list[tuple[GatewayError, int, str, str | None]] = [
    (Unauthenticated(), 401, "invalid_request_error", "invalid_api_key"),
    (ModelForbidden(), 403, "permission_error", "not_available"),
    (RouteForbidden(), 403, "permission_error", "not_available"),
    (UnknownPath(), 404, "not_found_error", None),
    (MethodNotAllowed("GET"), 405, "invalid_request_error", None),
    (BadRequest("Why."), 400, "invalid_request_error", None),
    (BodyTooLarge("Why."), 413, "invalid_request_error", "body_too_large"),
    (BodyTooSlow("Why."), 408, "invalid_request_error", "body_too_slow"),
    (UnsupportedEncoding("Why."), 415, "invalid_request_error", "unsupported_encoding"),
    (RejectedUpstream(422, "Why."), 422, "invalid_request_error", None),
    (UpstreamExhausted(), 502, "api_error", None),
    (NoCandidate(7), 503, "api_error", None),
    (Unavailable("journal_full", 9), 503, "api_error", None),
]


@pytest.mark.parametrize(("error", "status", "kind", "code"), TABLE)
def test_every_refusal_has_its_status_and_shapes(
    error: GatewayError, status: int, kind: str, code: str | None
) -> None:
    problem = problem_of(error)
    native = msgspec.json.decode(render(problem, NATIVE))
    openai = msgspec.json.decode(render(problem, OPENAI))

    assert problem.status == status
    assert native == {"error": problem.message}
    assert openai == {"error": {"message": problem.message, "type": kind, "param": None, "code": code}}


def test_the_table_is_complete() -> None:
    known = {type(error) for error, *_ in TABLE}
    refusals = {
        found
        for found in vars(errors).values()
        if isinstance(found, type) and issubclass(found, GatewayError) and found is not GatewayError
    }

    assert refusals == known


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("canary"),
        KeyError("canary"),
        UpstreamFailed("closed", Sent.REQUEST, "canary"),
        GatewayError("canary"),
    ],
)
@pytest.mark.parametrize("family", list(ApiFamily))
def test_t33_anything_else_is_a_500_that_tells_nothing(error: Exception, family: ApiFamily) -> None:
    problem = problem_of(error)

    assert (problem.status, problem.message) == (500, INTERNAL)
    assert b"canary" not in render(problem, family)


@pytest.mark.parametrize("family", list(ApiFamily))
def test_t05_an_absent_model_and_a_forbidden_operation_are_the_same_bytes(family: ApiFamily) -> None:
    model, route = problem_of(ModelForbidden()), problem_of(RouteForbidden())

    assert render(model, family) == render(route, family)
    assert model.headers == route.headers == ()
    assert model.message == FORBIDDEN


def test_what_is_busy_says_when_to_come_back() -> None:
    assert problem_of(NoCandidate(7)).headers == ((b"retry-after", b"7"),)
    assert problem_of(Unavailable("draining", 9)).headers == ((b"retry-after", b"9"),)


def test_our_own_reason_for_being_unavailable_stays_ours() -> None:
    assert b"canary" not in render(problem_of(Unavailable("canary")), NATIVE)


def test_a_missing_key_is_told_how_to_present_one() -> None:
    assert problem_of(Unauthenticated()).headers == ((b"www-authenticate", b"Bearer"),)


def test_a_wrong_method_is_told_the_right_ones() -> None:
    assert problem_of(MethodNotAllowed("GET, HEAD")).headers == ((b"allow", b"GET, HEAD"),)


def test_the_client_is_told_what_is_wrong_with_its_request() -> None:
    assert problem_of(BadRequest("The field x is no number.")).message == "The field x is no number."
