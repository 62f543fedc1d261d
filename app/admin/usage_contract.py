"""What is told of usage, and how its filters are asked for."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from litestar.params import QueryParameter
from msgspec import Meta

from app.admin import paging
from app.admin.administration import Administration
from app.admin.contract import Answered, Moment, utc
from app.admin.errors import InvalidFields
from app.admin.key_contract import reference
from app.admin.logins import Caller
from db.postgres import UnitOfWork
from domain import usage_rows as domain
from domain.tenants import KeyUnknown, TenantUnknown
from domain.usage import UsageOutcome
from domain.usage_rows import UsageFilter
from domain.values import KeyId, TenantId

DEFAULT_DAYS: Final = 30
BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Before any ledger."""

_WORD: Final = r"^[\x21-\x7e]+$(?!\n)"
_UUID: Final[dict[str, Any]] = {"format": "uuid"}

TenantFilter = Annotated[
    str | None,
    QueryParameter(name="tenant", pattern=_WORD, max_length=63, description="A tenant's slug, or its id."),
]
KeyFilter = Annotated[
    str | None,
    QueryParameter(name="key", pattern=_WORD, max_length=200, description="A key's prefix, or its id."),
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
Outcome = Literal[
    "completed", "client_closed", "rejected_upstream", "upstream_failed", "upstream_truncated", "cut", "lost"
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

Count = Annotated[int, Meta(ge=0)]
Microseconds = Annotated[Count | None, Meta(description="Microseconds; null: nobody measured it.")]


class UsageRow(Answered):
    """One admitted request."""

    request_id: Annotated[str, Meta(description="The X-Request-ID of its answer.", extra_json_schema=_UUID)]
    tenant: Annotated[str, Meta(description="Its slug; the id if it is gone.")]
    tenant_id: Annotated[str, Meta(extra_json_schema=_UUID)]
    key: Annotated[str, Meta(description="Its prefix; the id if it is gone.")]
    key_id: Annotated[str, Meta(extra_json_schema=_UUID)]
    model: str
    model_digest: Annotated[str, Meta(description="Of the file that answered.")]
    api_family: Annotated[str, Meta(examples=["openai"])]
    route: Annotated[str, Meta(examples=["/v1/chat/completions"])]
    backend: Annotated[str | None, Meta(description="The last one tried; null: none was.")]
    attempted_backends: Annotated[tuple[str, ...], Meta(description="All that were tried, in their order.")]
    outcome: Outcome
    tokens_in: Count
    tokens_out: Count
    tokens_cached: Annotated[Count | None, Meta(description="Of those in; null: nobody told.")]
    estimated: Annotated[bool, Meta(description="Whether no backend reported the tokens.")]
    queue_us: Microseconds
    load_us: Microseconds
    prompt_us: Microseconds
    eval_us: Microseconds
    first_token_us: Microseconds
    total_us: Microseconds
    started_at: Annotated[Moment, Meta(description="When it was admitted.")]
    ended_at: Moment
    client_request_id: Annotated[str | None, Meta(description="The X-Request-ID that the client sent.")]


class UsageRowPage(Answered):
    """Requests, newest first."""

    items: tuple[UsageRow, ...]
    next_cursor: paging.NextCursor


def fields_of(row: domain.UsageRow) -> dict[str, Any]:
    """Return the fields of `UsageRow`."""
    fields = {name: getattr(row, name) for name in UsageRow.__struct_fields__}
    return fields | {
        "request_id": str(row.request_id),
        "tenant_id": str(row.tenant_id),
        "key_id": str(row.key_id),
    }


async def usage_filter(
    admin: Administration,
    caller: Caller,
    *,
    tenant: str | None,
    key: str | None,
    model: str | None,
    backend: str | None,
    outcome: Outcome | None,
    since: datetime | None,
    until: datetime | None,
    since_ever: bool = False,
) -> UsageFilter:
    """Return which requests are asked for.

    Raises
    ------
    InvalidFields
        A tenant or key is named that does not exist, or the time asked for is empty.
    """
    end = datetime.now(UTC) if until is None else utc(until, parameter="until")
    if since is not None:
        start = utc(since, parameter="since")
    elif since_ever:
        start = min(BEGINNING, end)
    else:
        start = end - min(timedelta(days=DEFAULT_DAYS), end - datetime.min.replace(tzinfo=UTC))
    if start > end:
        raise InvalidFields.parameter(
            "since", "It must be before the end, which is now unless `until` is given."
        )
    async with admin.database.unit_of_work(caller.actor) as work:
        return UsageFilter(
            start,
            end,
            None if tenant is None else await _tenant(work, tenant),
            None if key is None else await _key(work, key),
            model,
            backend,
            None if outcome is None else UsageOutcome(outcome),
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
        prefix = reference(key)
        return (await work.keys(await work.tenants.owner_of_key(prefix)).get(prefix)).id
    except KeyUnknown:
        raise InvalidFields.parameter("key", "There is no key of that prefix.") from None
