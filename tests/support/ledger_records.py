"""Records as the ledger takes them: one May evening of tenant ACME, whose sums a test can do in its head."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from uuid_utils.compat import uuid7

from domain.usage import Admission, Durations, Settlement, UsageOutcome, UsageRecord
from domain.values import ApiFamily, KeyId, RequestId, TenantId
from tests.support.rows import ACME, ONE

DAY = datetime(2031, 5, 30, 22, 0, tzinfo=UTC)
COMPLETED = UsageOutcome.COMPLETED
LOST = UsageOutcome.LOST


def admission(
    started_at: datetime = DAY, tenant: UUID = ACME, key: UUID = ONE, model: str = "m:1"
) -> Admission:
    """Build an admission that sets every field."""
    return Admission(
        request_id=RequestId(uuid7()),
        period=started_at.date().replace(day=1),
        tenant_id=TenantId(tenant),
        key_id=KeyId(key),
        model=model,
        model_digest="sha256:1",
        api_family=ApiFamily.NATIVE,
        route="/api/chat",
        started_at=started_at,
        prompt_tokens_estimate=3,
        client_request_id='the "client\'s" own',
    )


def settlement(
    outcome: UsageOutcome = COMPLETED, tokens_out: int = 20, backend: str | None = "a"
) -> Settlement:
    """Build an ending: 10 tokens in, 6 microseconds of backend time."""
    return Settlement(
        outcome=outcome,
        ended_at=DAY + timedelta(seconds=3),
        tokens_in=10,
        tokens_out=tokens_out,
        tokens_cached=None,
        estimated=outcome is not COMPLETED,
        backend=backend,
        attempted_backends=() if backend is None else ("b", backend),
        durations=Durations(load_us=1, prompt_us=2, eval_us=3, total_us=2**40),
        model_digest=None if backend is None else "sha256:2",
    )


def record(started_at: datetime = DAY, **settled: object) -> UsageRecord:
    """Build a whole record; keywords are those of `settlement`."""
    return UsageRecord(admission(started_at), settlement(**settled))  # type: ignore[arg-type]
