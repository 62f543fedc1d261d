"""Headers that say how limits stand."""

from time import perf_counter

import pytest

from app.gateway.limit_headers import duration, headers
from domain.limits import LimitKind, LimitState

RPM = LimitKind.REQUESTS_PER_MINUTE
TPM = LimitKind.TOKENS_PER_MINUTE
CONCURRENCY = LimitKind.CONCURRENCY
DAY = LimitKind.TOKENS_PER_DAY
MONTH = LimitKind.TOKENS_PER_MONTH


def test_nothing_limited_says_nothing() -> None:
    assert headers(()) == ()


def test_every_kind_of_limit_is_told() -> None:
    states = (
        LimitState(RPM, "tenant", 60, 59, 1.0),
        LimitState(TPM, "tenant", 1000, 900, 6.0),
        LimitState(CONCURRENCY, "tenant", 4, 3, 0.0),
        LimitState(DAY, "tenant", 10_000, 5000, 3600.5),
        LimitState(MONTH, "tenant", 100_000, 95_000, 864_000.0),
    )

    assert headers(states) == (
        (b"x-ratelimit-limit-requests", b"60"),
        (b"x-ratelimit-remaining-requests", b"59"),
        (b"x-ratelimit-reset-requests", b"1s"),
        (b"x-ratelimit-limit-tokens", b"1000"),
        (b"x-ratelimit-remaining-tokens", b"900"),
        (b"x-ratelimit-reset-tokens", b"6s"),
        (
            b"ratelimit",
            (
                b'"requests";r=59;t=1, "tokens";r=900;t=6, "concurrency";r=3,'
                b' "tokens-day";r=5000;t=3601, "tokens-month";r=95000;t=864000'
            ),
        ),
        (
            b"ratelimit-policy",
            (
                b'"requests";q=60;w=60, "tokens";q=1000;w=60, "concurrency";q=4;qu="concurrent-requests",'
                b' "tokens-day";q=10000, "tokens-month";q=100000'
            ),
        ),
    )


@pytest.mark.parametrize("key_first", [False, True])
def test_the_tighter_of_tenant_and_key_is_told(*, key_first: bool) -> None:
    states = [LimitState(RPM, "tenant", 600, 400, 20.0), LimitState(RPM, "key", 60, 50, 10.0)]

    told = dict(headers(states[::-1] if key_first else states))
    assert told[b"x-ratelimit-limit-requests"] == b"60"
    assert told[b"ratelimit"] == b'"requests";r=50;t=10'
    assert told[b"ratelimit-policy"] == b'"requests";q=60;w=60'


def test_of_two_spent_limits_the_one_that_takes_longer_is_told() -> None:
    told = dict(headers([LimitState(RPM, "tenant", 60, 0, 60.0), LimitState(RPM, "key", 6, 0, 10.0)]))

    assert told[b"x-ratelimit-reset-requests"] == b"1m0s"


def test_a_quota_speaks_for_tokens_once_it_is_tighter() -> None:
    told = dict(headers([LimitState(TPM, "key", 1000, 900, 6.0), LimitState(DAY, "key", 5000, 80, 7200.0)]))

    assert told[b"x-ratelimit-limit-tokens"] == b"5000"
    assert told[b"x-ratelimit-remaining-tokens"] == b"80"
    assert told[b"x-ratelimit-reset-tokens"] == b"2h0m0s"


def test_concurrency_alone_has_no_header_of_openais() -> None:
    assert [name for name, _ in headers([LimitState(CONCURRENCY, "key", 4, 0, 0.0)])] == [
        b"ratelimit",
        b"ratelimit-policy",
    ]


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (-1.0, "0s"),
        (0.0, "0s"),
        (0.0004, "0s"),
        (0.12, "0.12s"),
        (1.5, "1.5s"),
        (59.9996, "60s"),
        (60.0, "1m0s"),
        (360.0, "6m0s"),
        (3600.0, "1h0m0s"),
        (3661.2, "1h1m2s"),
        (2_592_000.0, "720h0m0s"),
    ],
)
def test_a_span_is_written_as_openai_writes_it(seconds: float, written: str) -> None:
    assert duration(seconds) == written


def test_headers_cost_a_few_microseconds() -> None:
    states = tuple(LimitState(kind, scope, 60, 9, 8.5) for scope in ("tenant", "key") for kind in LimitKind)
    best = min(_seconds_per_call(states) for _ in range(20))

    assert best < 50e-6  # 8 us on a quiet machine


def _seconds_per_call(states: tuple[LimitState, ...]) -> float:
    began = perf_counter()
    for _ in range(100):
        headers(states)
    return (perf_counter() - began) / 100
