"""Single rows of the ledger, as operators ask for them and are told of them."""

from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

import msgspec

from domain.usage import UsageOutcome
from domain.values import KeyId, TenantId


class UsageFilter(msgspec.Struct, frozen=True):
    """Which requests count: those admitted from `since` up to, not including, `until`, and of these what is named.

    `backend` is the last one tried; empty means that none was.
    """

    since: datetime
    until: datetime
    tenant_id: TenantId | None = None
    key_id: KeyId | None = None
    model: str | None = None
    backend: str | None = None
    outcome: UsageOutcome | None = None


class RowPlace(NamedTuple):
    """Where a row stands in the order of the ledger: by month, and within it by the age of the request's id."""

    period: date
    request_id: UUID


class UsageRow(msgspec.Struct, frozen=True):
    """One row. `tenant` and `key` are slug and prefix, or the id where nothing else is left; times in microseconds."""

    period: date
    request_id: UUID
    tenant: str
    tenant_id: UUID
    key: str
    key_id: UUID
    model: str
    model_digest: str
    api_family: str
    route: str
    backend: str | None
    attempted_backends: tuple[str, ...]
    outcome: str
    tokens_in: int
    tokens_out: int
    tokens_cached: int | None
    estimated: bool
    queue_us: int | None
    load_us: int | None
    prompt_us: int | None
    eval_us: int | None
    first_token_us: int | None
    total_us: int | None
    started_at: datetime
    ended_at: datetime
    client_request_id: str | None

    @property
    def place(self) -> RowPlace:
        """Where it stands."""
        return RowPlace(self.period, self.request_id)
