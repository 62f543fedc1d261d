"""Limits: what a tenant and a key may use, what a request asks of them, and what the decision says.

Rates are counted by GCRA over one minute, which lets a whole limit be used at once and refills evenly; quotas are
budgets over the day and the month of the tenant's time zone; concurrency is what runs at the same time. One atomic
step in Redis decides over all that apply (`db/redis/limits.py`); only Redis's clock counts there.
"""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from domain.values import KeyId, Limits, RequestId, TenantId

__all__ = [
    "MINUTE_S",
    "Admitted",
    "Ask",
    "Held",
    "LimitKind",
    "LimitState",
    "Limits",
    "PeriodBounds",
    "Refused",
    "Spent",
    "Unknown",
]

MINUTE_S = 60


class LimitKind(StrEnum):
    """What a limit counts. The order is that of the columns in the database."""

    REQUESTS_PER_MINUTE = "requests_per_minute"
    TOKENS_PER_MINUTE = "tokens_per_minute"
    CONCURRENCY = "concurrency"
    TOKENS_PER_DAY = "tokens_per_day"
    TOKENS_PER_MONTH = "tokens_per_month"


class PeriodBounds(msgspec.Struct, frozen=True):
    """Unix seconds at which the previous, the current and the next period begin, and the next one ends.

    The app computes them from the Redis time it saw last; the script picks the period that holds its own now.
    """

    previous: int
    current: int
    next: int
    end: int

    def holding(self, moment: int) -> tuple[int, int]:
        """Return the start and the end of the period that holds a moment; of the nearest one if none does."""
        if moment < self.current:
            return self.previous, self.current
        if moment < self.next:
            return self.current, self.next
        return self.next, self.end


class Ask(msgspec.Struct, frozen=True):
    """What one request asks of its limits. `tokens` is the reservation: prompt estimate and output cap."""

    request_id: RequestId
    tenant_id: TenantId
    key_id: KeyId
    tenant_limits: Limits
    key_limits: Limits
    tokens: int
    day: PeriodBounds
    month: PeriodBounds


class LimitState(msgspec.Struct, frozen=True):
    """One limit after the decision. `reset_s` is when it will be whole again, `scope` is `tenant` or `key`."""

    kind: LimitKind
    scope: str
    limit: int
    remaining: int
    reset_s: float


class Admitted(msgspec.Struct, frozen=True):
    """Every limit let the request in, and holds its reservation now. `at` is the Unix second of the decision."""

    states: Sequence[LimitState]
    at: int


class Refused(msgspec.Struct, frozen=True):
    """One limit did not let the request in; nothing was reserved.

    `refused` is the limit that opens last among those that refused, `retry_after_s` when that is. `states` are
    all limits as they stand.
    """

    refused: LimitState
    retry_after_s: float
    states: Sequence[LimitState]


class Held(msgspec.Struct, frozen=True):
    """One request's reservation: what it asked, and the Unix second at which it was let in."""

    ask: Ask
    at: int

    @property
    def day(self) -> tuple[int, int]:
        """The start and the end of the day it counts in."""
        return self.ask.day.holding(self.at)

    @property
    def month(self) -> tuple[int, int]:
        """The start and the end of the month it counts in."""
        return self.ask.month.holding(self.at)


class Unknown(msgspec.Struct, frozen=True):
    """Redis has no memory of the tenant's quotas, and grants nothing before it was told what is spent."""


class Spent(msgspec.Struct, frozen=True):
    """The tokens that a tenant, or one of its keys, has spent in one period.

    `kind` is one of the two quotas, `start` and `end` are the period's Unix seconds. `key_id` None stands for the
    tenant as a whole.
    """

    kind: LimitKind
    start: int
    end: int
    key_id: KeyId | None
    tokens: int
