"""What a caller is told of its limits, in the words of OpenAI's clients and of the IETF's RateLimit draft.

Where the tenant and the key are both limited, the caller hears of the tighter one. The same headers go with
answers and with refusals.
"""

from collections.abc import Sequence
from math import ceil
from typing import Final

from domain.limits import MINUTE_S, LimitKind, LimitState

Header = tuple[bytes, bytes]

# Policies of the IETF draft: what has no window is counted over a day or month of the calendar, or at one time.
# Walked by identity, because hashing a member of an enum costs more than all of this.
_POLICIES: Final = (
    (LimitKind.REQUESTS_PER_MINUTE, b"requests", b";w=%d" % MINUTE_S),
    (LimitKind.TOKENS_PER_MINUTE, b"tokens", b";w=%d" % MINUTE_S),
    (LimitKind.CONCURRENCY, b"concurrency", b';qu="concurrent-requests"'),
    (LimitKind.TOKENS_PER_DAY, b"tokens-day", b""),
    (LimitKind.TOKENS_PER_MONTH, b"tokens-month", b""),
)
_HOUR_S: Final = 3600


def headers(states: Sequence[LimitState]) -> tuple[Header, ...]:
    """Return the headers that tell how limits stand; none if nothing is limited."""
    if not states:
        return ()
    found: list[Header] = []
    standings: list[bytes] = []
    policies: list[bytes] = []
    tokens: LimitState | None = None
    for kind, name, window in _POLICIES:
        state: LimitState | None = None
        for other in states:
            if other.kind is kind and (state is None or _is_tighter(other, state)):
                state = other
        if state is None:
            continue
        policies.append(b'"%b";q=%d%b' % (name, state.limit, window))
        if kind is LimitKind.CONCURRENCY:
            # Room comes back when a request ends, and nobody knows when that is.
            standings.append(b'"%b";r=%d' % (name, state.remaining))
            continue
        standings.append(b'"%b";r=%d;t=%d' % (name, state.remaining, ceil(state.reset_s)))
        if kind is LimitKind.REQUESTS_PER_MINUTE:
            found += _openai(b"requests", state)
        elif tokens is None or _is_tighter(state, tokens):
            tokens = state
    if tokens is not None:
        found += _openai(b"tokens", tokens)
    return *found, (b"ratelimit", b", ".join(standings)), (b"ratelimit-policy", b", ".join(policies))


def _is_tighter(state: LimitState, other: LimitState) -> bool:
    if state.remaining != other.remaining:
        return state.remaining < other.remaining
    return state.reset_s > other.reset_s


def _openai(what: bytes, state: LimitState) -> tuple[Header, ...]:
    return (
        (b"x-ratelimit-limit-%b" % what, b"%d" % state.limit),
        (b"x-ratelimit-remaining-%b" % what, b"%d" % state.remaining),
        (b"x-ratelimit-reset-%b" % what, duration(state.reset_s).encode()),
    )


def duration(seconds: float) -> str:
    """Return a span as OpenAI's headers write it: `1.5s`, `6m0s`, `20h0m0s`."""
    if seconds < MINUTE_S:
        return f"{round(max(seconds, 0.0), 3):g}s"
    whole = ceil(seconds)
    minutes = f"{whole % _HOUR_S // MINUTE_S}m{whole % MINUTE_S}s"
    return minutes if whole < _HOUR_S else f"{whole // _HOUR_S}h{minutes}"
