"""The table from refusal to HTTP: complete, in each family's shape, and silent about what went on inside."""

import msgspec
import pytest

from app.gateway.limit_headers import headers
from app.problems import FORBIDDEN, INTERNAL, problem_of, render, render_event
from domain import errors
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
    Sent,
    Unauthenticated,
    Unavailable,
    UnknownPath,
    UnsupportedEncoding,
    UpstreamExhausted,
    UpstreamFailed,
)
from domain.limits import LimitKind, LimitState, Refused
from domain.values import ApiFamily

NATIVE, OPENAI = ApiFamily.NATIVE, ApiFamily.OPENAI


def exceeded(
    kind: LimitKind, *, scope: str = "key", limit: int = 60, retry_after_s: float = 11.2
) -> LimitExceeded:
    state = LimitState(kind, scope, limit, 0, retry_after_s)
    return LimitExceeded(Refused(state, retry_after_s, (state,)))


RATES = [LimitKind.REQUESTS_PER_MINUTE, LimitKind.TOKENS_PER_MINUTE, LimitKind.CONCURRENCY]
QUOTAS = [LimitKind.TOKENS_PER_DAY, LimitKind.TOKENS_PER_MONTH]

TABLE: list[tuple[GatewayError, int, str, str | None]] = [
    (Unauthenticated(), 401, "invalid_request_error", "invalid_api_key"),
    (ModelForbidden(), 403, "permission_error", "not_available"),
    (RouteForbidden(), 403, "permission_error", "not_available"),
    (UnknownPath(), 404, "not_found_error", None),
    (MethodNotAllowed("GET"), 405, "invalid_request_error", None),
    (BadRequest("Why."), 400, "invalid_request_error", None),
    (BodyTooLarge("Why."), 413, "invalid_request_error", "body_too_large"),
    (BodyTooSlow("Why."), 408, "invalid_request_error", "body_too_slow"),
    (BrokenFraming("Why."), 400, "invalid_request_error", None),
    (UnsupportedEncoding("Why."), 415, "invalid_request_error", "unsupported_encoding"),
    (RejectedUpstream(422, "Why."), 422, "invalid_request_error", None),
    (UpstreamExhausted(), 502, "api_error", None),
    (AnswerGivenUp(5), 502, "api_error", None),
    *((exceeded(kind), 429, "rate_limit_error", "rate_limit_exceeded") for kind in RATES),
    *((exceeded(kind), 429, "rate_limit_error", "insufficient_quota") for kind in QUOTAS),
    (PromptTooLarge(5000, 4000), 429, "rate_limit_error", "rate_limit_exceeded"),
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
    assert render(problem, ApiFamily.RESPONSES) == render(problem, OPENAI)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Unauthenticated(), "authentication_error"),
        (ModelForbidden(), "permission_error"),
        (UnknownPath(), "not_found_error"),
        (MethodNotAllowed("POST"), "invalid_request_error"),
        (BadRequest("Why."), "invalid_request_error"),
        (BodyTooLarge("Why."), "request_too_large"),
        (BodyTooSlow("Why."), "invalid_request_error"),
        (UnsupportedEncoding("Why."), "invalid_request_error"),
        (RejectedUpstream(400, "Why."), "invalid_request_error"),
        (exceeded(LimitKind.REQUESTS_PER_MINUTE), "rate_limit_error"),
        (PromptTooLarge(5000, 4000), "rate_limit_error"),
        (UpstreamExhausted(), "api_error"),
        (AnswerGivenUp(5), "api_error"),
        (NoCandidate(7), "overloaded_error"),
        (Unavailable("draining"), "overloaded_error"),
        (RuntimeError("canary"), "api_error"),
    ],
)
def test_anthropic_s_clients_are_told_in_their_own_words(error: Exception, kind: str) -> None:
    problem = problem_of(error)

    assert msgspec.json.decode(render(problem, ApiFamily.ANTHROPIC, b"id-1")) == {
        "type": "error",
        "error": {"type": kind, "message": problem.message},
        "request_id": "id-1",
    }


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


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            exceeded(LimitKind.REQUESTS_PER_MINUTE),
            (
                "This key's limit of 60 requests per minute has no room left for this request."
                " Try again in 12 seconds."
            ),
        ),
        (
            exceeded(LimitKind.CONCURRENCY, scope="tenant", limit=4, retry_after_s=0.3),
            (
                "Your tenant's limit of 4 requests at the same time has no room left for this request."
                " Try again in 1 second."
            ),
        ),
        (
            exceeded(LimitKind.TOKENS_PER_DAY, limit=1_000_000, retry_after_s=3 * 3600 + 1),
            (
                "This key's quota of 1,000,000 tokens per day has no room left for this request."
                " Try again in 4 hours."
            ),
        ),
        (
            exceeded(LimitKind.TOKENS_PER_MONTH, limit=10, retry_after_s=2 * 86_400),
            "This key's quota of 10 tokens per month has no room left for this request. Try again in 2 days.",
        ),
        (
            exceeded(LimitKind.TOKENS_PER_MINUTE, limit=10, retry_after_s=120),
            "This key's limit of 10 tokens per minute has no room left for this request. Try again in 2 minutes.",
        ),
        (
            PromptTooLarge(5000, 4000),
            (
                "The prompt may need 5,000 tokens, which is more than a limit of 4,000 tokens ever has room for."
                " Send a shorter prompt."
            ),
        ),
    ],
)
def test_a_caller_is_told_which_limit_and_when_to_come_back(error: GatewayError, said: str) -> None:
    assert problem_of(error).message == said


@pytest.mark.parametrize(
    ("retry_after_s", "header"), [(0.0, b"1"), (0.2, b"1"), (1.0, b"1"), (1.01, b"2"), (86_400.0, b"86400")]
)
def test_retry_after_is_whole_seconds_and_never_too_early(retry_after_s: float, header: bytes) -> None:
    error = exceeded(LimitKind.REQUESTS_PER_MINUTE, retry_after_s=retry_after_s)

    assert dict(problem_of(error).headers)[b"retry-after"] == header


@pytest.mark.parametrize("kind", list(LimitKind))
def test_only_a_spent_quota_tells_client_libraries_not_to_retry(kind: LimitKind) -> None:
    told = dict(problem_of(exceeded(kind)).headers)

    assert told.get(b"x-should-retry") == (b"false" if kind in QUOTAS else None)


def test_a_prompt_that_never_fits_is_not_to_be_sent_again() -> None:
    told = dict(problem_of(PromptTooLarge(5000, 4000)).headers)

    assert (told[b"x-should-retry"], b"retry-after" in told) == (b"false", True)


def test_a_refusal_shows_how_all_limits_stand() -> None:
    states = (
        LimitState(LimitKind.REQUESTS_PER_MINUTE, "tenant", 60, 12, 48.0),
        LimitState(LimitKind.TOKENS_PER_DAY, "key", 1000, 0, 7200.0),
    )

    told = problem_of(LimitExceeded(Refused(states[1], 7200.0, states))).headers
    assert set(headers(states)) <= set(told)


def test_a_refusal_among_openai_s_events_is_its_body() -> None:
    problem = problem_of(UpstreamExhausted())

    assert render_event(problem, OPENAI, b"id-1") == b"data: %b\n\n" % render(problem, OPENAI)


def test_a_refusal_among_anthropic_s_events_is_an_error_event() -> None:
    problem = problem_of(NoCandidate(7))

    said = render_event(problem, ApiFamily.ANTHROPIC, b"id-1")

    assert said == b"event: error\ndata: %b\n\n" % render(problem, ApiFamily.ANTHROPIC)


@pytest.mark.parametrize(
    ("error", "code"), [(UpstreamExhausted(), "server_error"), (ModelForbidden(), "invalid_prompt")]
)
def test_a_refusal_among_events_of_a_response_is_its_failure(error: Exception, code: str) -> None:
    problem = problem_of(error)

    kind, data = render_event(problem, ApiFamily.RESPONSES, b"id-1").split(b"\n", 1)

    failed = msgspec.json.decode(data.removeprefix(b"data: "))
    assert kind == b"event: response.failed"
    assert (failed["type"], failed["sequence_number"]) == ("response.failed", 0)
    assert (failed["response"]["id"], failed["response"]["status"]) == ("resp_id-1", "failed")
    assert failed["response"]["error"] == {"code": code, "message": problem.message}
