"""The interface of a gateway's control plane as commands see it; values are those of `domain`.

What cannot be is refused with a `ControlError` of `domain.tenants` or, where only the other side can tell, with a
`CommandFailed` that already is a sentence.
"""

from collections.abc import AsyncGenerator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from msgspec import UnsetType

if TYPE_CHECKING:
    from app.cli.fleet_lines import BackendLine, JobsSummary, LastRun
    from app.cli.model_lines import ModelList
    from db.revocation_wait import Confirmation
    from domain.jobs import JobOrder
    from domain.limits import LimitKind
    from domain.tenants import (
        AuditEvent,
        AuditFilter,
        GrantSummary,
        IssuedKey,
        KeyChange,
        KeySummary,
        LimitSummary,
        Network,
        PolicySummary,
        Rotation,
        Tenant,
        TenantChange,
        TenantStatus,
    )
    from domain.usage_report import UsageGroup, UsageReport
    from domain.values import Limits, OptionRule

T = TypeVar("T")


class Changed(NamedTuple, Generic[T]):
    """A value before and after a change; the same twice where nothing was changed."""

    before: T
    after: T


class KeyFound(NamedTuple):
    """A key as it stands, and its owner's slug (None: the operators)."""

    summary: "KeySummary"
    slug: str | None


class TenantDesk(Protocol):
    """Tenants, by their slugs. `TenantUnknown` where there is none."""

    async def list(self) -> "tuple[Tenant, ...]":
        """Return all of them."""

    async def get(self, slug: str) -> "Tenant":
        """Return one."""

    async def create(self, slug: str, name: str, *, time_zone: str, allow_all_models: bool) -> "Tenant":
        """Create one."""

    async def change(self, slug: str, change: "TenantChange") -> "Changed[Tenant]":
        """Change what is not UNSET."""

    async def set_status(self, slug: str, status: "TenantStatus") -> "Changed[Tenant]":
        """Suspend one, or let it back in."""


class KeyDesk(Protocol):
    """Keys. `owner` None means the operators; `KeyUnknown` where there is none."""

    async def list(self, owner: "Tenant | None") -> "tuple[KeySummary, ...]":
        """Return an owner's keys, oldest first."""

    async def every(self) -> tuple[KeyFound, ...]:
        """Return all keys, whoever owns them, oldest first."""

    async def get(self, owner: "Tenant", reference: str) -> "KeySummary":
        """Return a tenant's key by its prefix or id."""

    async def find(self, reference: str) -> KeyFound:
        """Return a key by its prefix or id, whoever owns it."""

    async def create(
        self,
        owner: "Tenant | None",
        name: str,
        *,
        expires_at: datetime | None,
        allowed_networks: "tuple[Network, ...]",
        path_allowed: bool,
    ) -> "IssuedKey":
        """Create a key; its text is in the answer alone."""

    async def change(self, found: KeyFound, change: "KeyChange") -> "Changed[KeySummary]":
        """Change what is not UNSET."""

    async def rotate(
        self, found: KeyFound, *, overlap: timedelta, expires_at: datetime | UnsetType | None
    ) -> "Rotation":
        """Replace a key by a successor with the same rights."""

    async def revoke(self, found: KeyFound) -> "Changed[KeySummary]":
        """End a key for good."""


class LimitDesk(Protocol):
    """Limits of a tenant (`key` None) and of its keys, by prefix or id."""

    async def list(self, owner: "Tenant") -> "tuple[LimitSummary, ...]":
        """Return the tenant's level, and then those of each key that has any."""

    async def get(self, owner: "Tenant", key: str | None) -> "Limits":
        """Return one level."""

    async def set(
        self, owner: "Tenant", key: str | None, changes: "Mapping[LimitKind, int | None]"
    ) -> "Changed[Limits]":
        """Set some; None takes a limit away."""

    async def clear(self, owner: "Tenant", key: str | None) -> bool:
        """Take all of one level away; return False if there were none."""


class GrantDesk(Protocol):
    """Grants of a tenant (`key` None) and of its keys, by prefix or id."""

    async def list(self, owner: "Tenant", key: str | None = None) -> "tuple[GrantSummary, ...]":
        """Return those of the tenant and all its keys, or those of one key alone."""

    async def allow(self, owner: "Tenant", pattern: str, key: str | None) -> bool:
        """Grant a pattern; return False if it was granted before."""

    async def disallow(self, owner: "Tenant", pattern: str, key: str | None) -> bool:
        """Take a grant back; return False if there is none."""


class PolicyDesk(Protocol):
    """Rules for fields of requests: of a tenant, a key, or a grant (`pattern`) of either.

    `GrantUnknown` where there is no such grant.
    """

    async def list(self, owner: "Tenant", key: str | None = None) -> "tuple[PolicySummary, ...]":
        """Return those of the tenant and all below it, or those of one key; the less specific ones first."""

    async def set(
        self, owner: "Tenant", field: str, rule: "OptionRule", *, key: str | None, pattern: str | None
    ) -> bool:
        """Set a rule; return False if it stood there before."""

    async def clear(self, owner: "Tenant", field: str, *, key: str | None, pattern: str | None) -> bool:
        """Take a rule away; return False if there is none."""


class ExportWanted(NamedTuple):
    """Which rows to export and how.

    `layout` is `ndjson` or `csv`, `cursor` where an earlier export ended; `since` None means the beginning.
    """

    layout: str
    since: datetime | None
    until: datetime
    tenant: "Tenant | None"
    cursor: str | None


class UsageDesk(Protocol):
    """The ledger: its sums and its rows."""

    async def report(
        self, by: "UsageGroup", *, since: datetime, until: datetime, tenant: "Tenant | None"
    ) -> "UsageReport":
        """Return sums over requests admitted from `since` up to, not including, `until`."""

    def export(self, wanted: ExportWanted) -> AsyncGenerator[bytes, None]:
        """Yield rows, oldest first, as text in pieces of any size."""


class FleetDesk(Protocol):
    """Backends, what they host, and jobs. `BackendUnknown` where there is no such backend."""

    async def models(self) -> "ModelList":
        """Return the models of all backends."""

    async def backends(self) -> "tuple[BackendLine, ...]":
        """Return the live state of all backends, in the operator's order."""

    async def drain(self, name: str, reason: str, *, waits: bool) -> "Changed[BackendLine]":
        """Take one out of service; with `waits` return when every process acts upon it, or 5 seconds later."""

    async def undrain(self, name: str, *, waits: bool) -> "Changed[BackendLine]":
        """Let one back in, likewise."""

    async def jobs(self) -> "JobsSummary":
        """Return what the job queue holds and how each job ran last."""

    async def order_job(self, order: "JobOrder", *, again: bool, waits: bool) -> "LastRun | None":
        """Have a job run now, with `again` only if its last run failed; with `waits` return how it ended."""


class ControlPlane(Protocol):
    """One gateway's control plane."""

    @property
    def tenants(self) -> TenantDesk:
        """Tenants."""

    @property
    def keys(self) -> KeyDesk:
        """Keys."""

    @property
    def limits(self) -> LimitDesk:
        """Limits."""

    @property
    def grants(self) -> GrantDesk:
        """Grants."""

    @property
    def policies(self) -> PolicyDesk:
        """Option policies."""

    @property
    def usage(self) -> UsageDesk:
        """The ledger."""

    @property
    def fleet(self) -> FleetDesk:
        """Backends and models."""

    @property
    def gateway_url(self) -> str:
        """Where callers find the gateway, as far as it is known."""

    async def confirm(self, *, since: float) -> "Confirmation | None":
        """Wait until every process has acted upon what was changed before the monotonic moment `since`.

        None where nobody can tell, because Redis is away.
        """

    async def audit(self, wanted: "AuditFilter", limit: int) -> "tuple[AuditEvent, ...]":
        """Return the newest events that match, newest first."""
