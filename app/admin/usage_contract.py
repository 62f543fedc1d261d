"""What is told of usage, and how its filters are asked for."""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from app.admin import paging
from app.admin.contract import Answered, Moment
from domain import usage_rows as domain

_UUID: Final[dict[str, Any]] = {"format": "uuid"}

Outcome = Literal[
    "completed", "client_closed", "rejected_upstream", "upstream_failed", "upstream_truncated", "cut", "lost"
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
