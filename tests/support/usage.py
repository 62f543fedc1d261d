"""Builders of what accounting moves about."""

from datetime import UTC, date, datetime
from uuid import UUID, uuid4

from uuid_utils.compat import uuid7

from domain.usage import Admission, Durations, Settlement, UsageOutcome
from domain.values import ApiFamily, KeyId, RequestId, TenantId

PERIOD = date(2026, 11, 1)


def admission(
    request_id: UUID | None = None, *, model: str = "llama3.1:8b", client_request_id: str | None = None
) -> Admission:
    """Build the admission of a request of November 2026."""
    return Admission(
        request_id=RequestId(request_id or uuid7()),
        period=PERIOD,
        tenant_id=TenantId(uuid4()),
        key_id=KeyId(uuid4()),
        model=model,
        model_digest="a" * 64,
        api_family=ApiFamily.NATIVE,
        route="/api/chat",
        started_at=datetime(2026, 11, 23, 12, 0, tzinfo=UTC),
        prompt_tokens_estimate=7,
        client_request_id=client_request_id,
    )


def settlement(tokens_out: int = 5, *, attempted_backends: tuple[str, ...] = ("a",)) -> Settlement:
    """Build the ending of a completed request."""
    return Settlement(
        outcome=UsageOutcome.COMPLETED,
        ended_at=datetime(2026, 11, 23, 12, 1, tzinfo=UTC),
        tokens_in=3,
        tokens_out=tokens_out,
        tokens_cached=None,
        estimated=False,
        backend=attempted_backends[-1],
        attempted_backends=attempted_backends,
        durations=Durations(total_us=60_000_000),
    )
