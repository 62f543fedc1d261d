"""What this process holds of its tenants' limits: reservations that are open, and how the rates stood last.

Redis counts them; but Redis may lose its memory or be out of reach, and then the process has to say what it holds.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from domain.limits import Held, LimitState
from domain.recounts import Charge, Declaration, Level, level_of
from domain.usage import UsageRecord
from domain.values import KeyId, RequestId, TenantId

MAX_SEEN: Final = 20_000
"""Keys of which the last standing is remembered. After a minute nothing of it is true any more."""


class Holdings:
    """The reservations of one process.

    Parameters
    ----------
    unconfirmed
        Settled records of this process that Postgres may not have yet.
    late
        Charges of a tenant's requests that Redis has not been told of yet.
    """

    def __init__(
        self,
        *,
        unconfirmed: Callable[[], Iterable[UsageRecord]],
        late: Callable[[TenantId], Iterable[Charge]],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._unconfirmed = unconfirmed
        self._late = late
        self._now = now
        self._open: dict[RequestId, Held] = {}
        self._seen: dict[KeyId, tuple[TenantId, float, Sequence[LimitState]]] = {}
        self._declared_at: dict[TenantId, float] = {}

    def __len__(self) -> int:
        """How many reservations are open."""
        return len(self._open)

    def opened(self, held: Held) -> None:
        """Note a reservation."""
        self._open[held.ask.request_id] = held

    def closed(self, request_id: RequestId) -> Held | None:
        """Forget a reservation and return it; None if there was none."""
        return self._open.pop(request_id, None)

    def saw(self, tenant_id: TenantId, key_id: KeyId, states: Sequence[LimitState]) -> None:
        """Note how the limits of a key and its tenant stood just now."""
        if len(self._seen) >= MAX_SEEN and key_id not in self._seen:
            self._seen.clear()
        self._seen[key_id] = (tenant_id, self._now(), states)

    def declare(self, tenant_id: TenantId) -> Declaration:
        """Return what Postgres may not know of a tenant, and Redis may have forgotten."""
        now = self._declared_at[tenant_id] = self._now()
        return Declaration(
            running=tuple(held for held in self._open.values() if held.ask.tenant_id == tenant_id),
            ended=(*self._late(tenant_id), *self._unaccounted(tenant_id)),
            levels=tuple(self._levels(tenant_id, now)),
        )

    def declared_since(self, tenant_id: TenantId, moment: float) -> bool:
        """Tell whether a tenant's holdings were declared after a monotonic moment."""
        return self._declared_at.get(tenant_id, float("-inf")) > moment

    def _unaccounted(self, tenant_id: TenantId) -> Iterable[Charge]:
        for record in self._unconfirmed():
            admission = record.admission
            if admission.tenant_id == tenant_id:
                at = int(admission.started_at.timestamp())
                yield Charge(admission.request_id, admission.key_id, tokens_of(record), at)

    def _levels(self, tenant_id: TenantId, now: float) -> Iterable[Level]:
        for key_id, (of_tenant, seen_at, states) in self._seen.items():
            if of_tenant == tenant_id:
                for state in states:
                    level = level_of(state, key_id=key_id, seen_s=now - seen_at)
                    if level is not None:
                        yield level


def tokens_of(record: UsageRecord) -> int:
    """Return what a record is charged for."""
    return record.settlement.tokens_in + record.settlement.tokens_out
