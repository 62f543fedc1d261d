"""What one admitted request cost, from its admission to its single outcome."""

from datetime import date, datetime
from enum import StrEnum
from typing import Final

import msgspec

from domain.values import ApiFamily, KeyId, RequestId, TenantId

BYTES_PER_TOKEN: Final = 4
"""Of ordinary text, roughly, whatever the language: four letters of English, one or two characters of Chinese."""


class UsageOutcome(StrEnum):
    """How a request ended. Every ending maps to exactly one (docs/architecture.md has the table)."""

    COMPLETED = "completed"
    CLIENT_CLOSED = "client_closed"
    REJECTED_UPSTREAM = "rejected_upstream"
    UPSTREAM_FAILED = "upstream_failed"
    UPSTREAM_TRUNCATED = "upstream_truncated"
    CUT = "cut"
    LOST = "lost"


class Admission(msgspec.Struct, frozen=True):
    """The facts known when a request is let in; they never change afterwards.

    `period` is the first day (UTC) of the month of admission: the partition of the usage table.
    `prompt_tokens_estimate` is charged when no backend ever reports a count (`domain.reservations.probable`).
    """

    request_id: RequestId
    period: date
    tenant_id: TenantId
    key_id: KeyId
    model: str
    model_digest: str
    api_family: ApiFamily
    route: str
    started_at: datetime
    prompt_tokens_estimate: int
    client_request_id: str | None = None


class Durations(msgspec.Struct, frozen=True):
    """Microseconds. None means that nobody measured it.

    queue: waiting for a place at a backend, and for a slot inside it; load: loading the model; prompt: evaluating the
    prompt; eval: generating; first_token: admission to first released record; total: admission to the end.
    """

    queue_us: int | None = None
    load_us: int | None = None
    prompt_us: int | None = None
    eval_us: int | None = None
    first_token_us: int | None = None
    total_us: int | None = None


class Settlement(msgspec.Struct, frozen=True):
    """The single ending of an admitted request.

    `backend` is the last one tried, `model_digest` what it hosts under the model's name: backends may differ in
    that. Both are None if none was tried; of a lost request the digest is not known.
    """

    outcome: UsageOutcome
    ended_at: datetime
    tokens_in: int
    tokens_out: int
    tokens_cached: int | None
    estimated: bool
    backend: str | None
    attempted_backends: tuple[str, ...]
    durations: Durations
    model_digest: str | None = None


class UsageRecord(msgspec.Struct, frozen=True):
    """One row of the ledger."""

    admission: Admission
    settlement: Settlement


class MeasuredUsage(msgspec.Struct, frozen=True):
    """What a backend reported about one answer. Durations are Ollama's, in nanoseconds; 0 means not reported.

    `tokens_in` is None when the backend left it out (older ones do on a cache hit).
    """

    tokens_in: int | None
    tokens_out: int
    total_ns: int = 0
    load_ns: int = 0
    prompt_ns: int = 0
    eval_ns: int = 0

    def durations(self) -> Durations:
        """Return the shares of the total; what none of them explains was queueing for a slot."""
        if not self.total_ns:
            return Durations()
        queue_ns = max(0, self.total_ns - self.load_ns - self.prompt_ns - self.eval_ns)
        return Durations(
            queue_us=queue_ns // 1000,
            load_us=self.load_ns // 1000,
            prompt_us=self.prompt_ns // 1000,
            eval_us=self.eval_ns // 1000,
        )
