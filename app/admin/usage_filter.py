"""Which requests somebody asks about: the filters that rows, sums and exports share, and what they come to."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, NamedTuple
from uuid import UUID

from litestar.di import NamedDependency, Provide
from litestar.params import QueryParameter

from app.admin.contract import utc
from app.admin.errors import InvalidFields
from app.admin.handed import Admin, By
from app.admin.key_contract import reference
from app.admin.usage_contract import Outcome
from app.admin.wording import WORD
from db.postgres import UnitOfWork
from domain.tenants import KeyUnknown, TenantUnknown
from domain.usage import UsageOutcome
from domain.usage_rows import UsageFilter
from domain.values import KeyId, TenantId

DEFAULT_DAYS: Final = 30
BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Before any ledger."""

TenantFilter = Annotated[
    str | None,
    QueryParameter(name="tenant", pattern=WORD, max_length=63, description="A tenant's slug, or its id."),
]
KeyFilter = Annotated[
    str | None,
    QueryParameter(name="key", pattern=WORD, max_length=200, description="A key's prefix, or its id."),
]
ModelFilter = Annotated[
    str | None,
    QueryParameter(
        name="model", min_length=1, max_length=400, description="A model's name, such as llama3.2:latest."
    ),
]
BackendFilter = Annotated[
    str | None,
    QueryParameter(
        name="backend",
        max_length=64,
        description="The last backend tried; empty: requests that were sent to none.",
    ),
]
OutcomeFilter = Annotated[Outcome | None, QueryParameter(name="outcome", description="How requests ended.")]
Since = Annotated[
    datetime | None,
    QueryParameter(
        name="since", description="Requests admitted from then on. Default: 30 days before `until`."
    ),
]
SinceEver = Annotated[
    datetime | None,
    QueryParameter(
        name="since", description="Requests admitted from then on. Default: the beginning of the ledger."
    ),
]
Until = Annotated[
    datetime | None,
    QueryParameter(name="until", description="Requests admitted before then. Default: now."),
]


class Filters(NamedTuple):
    """What all three take."""

    tenant: str | None
    key: str | None
    model: str | None
    backend: str | None
    outcome: Outcome | None
    until: datetime | None

    @property
    def end(self) -> datetime:
        """Up to when requests count, which is now unless something else was asked for."""
        return datetime.now(UTC) if self.until is None else utc(self.until, parameter="until")


Asked = NamedDependency[Filters]
Wanted = NamedDependency[UsageFilter]


def _filters(
    *,
    tenant: TenantFilter = None,
    key: KeyFilter = None,
    model: ModelFilter = None,
    backend: BackendFilter = None,
    outcome: OutcomeFilter = None,
    until: Until = None,
) -> Filters:
    return Filters(tenant, key, model, backend, outcome, until)


async def _lately(filters: Asked, admin: Admin, caller: By, since: Since = None) -> UsageFilter:
    end = filters.end
    start = end - min(timedelta(days=DEFAULT_DAYS), end - datetime.min.replace(tzinfo=UTC))
    async with admin.database.unit_of_work(caller.actor) as work:
        return await _found(work, filters, start if since is None else utc(since, parameter="since"), end)


async def _ever(filters: Asked, admin: Admin, caller: By, since: SinceEver = None) -> UsageFilter:
    end = filters.end
    start = min(BEGINNING, end)
    async with admin.database.unit_of_work(caller.actor) as work:
        return await _found(work, filters, start if since is None else utc(since, parameter="since"), end)


LATELY: Final = {"filters": Provide(_filters, sync_to_thread=False), "wanted": Provide(_lately)}
EVER: Final = {"wanted": Provide(_ever)}
"""The dependencies of handlers: `wanted` are the requests of the last 30 days, or all there ever were, unless `since`
says otherwise."""


async def _found(work: UnitOfWork, filters: Filters, start: datetime, end: datetime) -> UsageFilter:
    """Return which requests are asked for.

    Raises
    ------
    InvalidFields
        A tenant or key is named that does not exist, or the time asked for is empty.
    """
    if start > end:
        raise InvalidFields.parameter(
            "since", "It must be before the end, which is now unless `until` is given."
        )
    return UsageFilter(
        start,
        end,
        None if filters.tenant is None else await _tenant(work, filters.tenant),
        None if filters.key is None else await _key(work, filters.key),
        filters.model,
        filters.backend,
        None if filters.outcome is None else UsageOutcome(filters.outcome),
    )


async def _tenant(work: UnitOfWork, tenant: str) -> TenantId:
    """Return whom a filter names. An id is taken as it is: usage outlives its tenant."""
    try:
        return TenantId(UUID(tenant))
    except ValueError:
        pass
    try:
        return (await work.tenants.get(tenant)).id
    except TenantUnknown:
        raise InvalidFields.parameter("tenant", "There is no tenant of that slug.") from None


async def _key(work: UnitOfWork, key: str) -> KeyId:
    try:
        return KeyId(UUID(key))
    except ValueError:
        pass
    try:
        return (await work.every_key.find(reference(key))).summary.id
    except KeyUnknown:
        raise InvalidFields.parameter("key", "There is no key of that prefix.") from None
