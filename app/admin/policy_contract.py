"""What rules of option policies look like on the wire."""

from typing import Annotated, Final, Literal

from msgspec import Meta

from app.admin import paging
from app.admin.contract import Answered, Asked
from domain.tenants import PolicySummary

_MAX_EXACT: Final = 2**53
"""Beyond it readers of JSON disagree on whole numbers."""
_MAX_TEXT_CHARS: Final = 100_000

Whole = Annotated[int, Meta(ge=-_MAX_EXACT, le=_MAX_EXACT)]
Bound = Whole | float | Annotated[str, Meta(min_length=1, max_length=64, examples=["5m"])]
Value = bool | Whole | float | Annotated[str, Meta(min_length=1, max_length=_MAX_TEXT_CHARS)]


class PolicyRule(Answered):
    """What happens to one field of a request, and where that was said. The most specific rule decides."""

    field: Annotated[str, Meta(description="What is decided on.", examples=["num_ctx"])]
    action: Annotated[
        Literal["allow", "strip", "reject", "clamp", "set", "unreadable"],
        Meta(
            description="`unreadable`: somebody has damaged it in the database; until it is set anew clients may not"
            " name the field."
        ),
    ]
    min: Annotated[Bound | None, Meta(description="The least that a clamp lets through.")]
    max: Annotated[Bound | None, Meta(description="The most that a clamp lets through.")]
    value: Annotated[
        Value | None, Meta(description="What `set` sends, and `clamp` where the client names nothing.")
    ]
    key_id: Annotated[
        str | None,
        Meta(
            description="The key at which it stands; null: at the tenant.",
            extra_json_schema={"format": "uuid"},
        ),
    ]
    grant_id: Annotated[
        str | None,
        Meta(
            description="The grant at which it stands; null: it is for every model.",
            extra_json_schema={"format": "uuid"},
        ),
    ]
    pattern: Annotated[str | None, Meta(description="The pattern of that grant.")]


class PolicyRulePage(Answered):
    """Rules, the less specific ones first."""

    items: tuple[PolicyRule, ...]
    next_cursor: paging.NextCursor


class NewPolicyRule(Asked):
    """What shall happen to the field."""

    action: Annotated[
        Literal["allow", "strip", "reject", "clamp", "set"],
        Meta(
            description="allow: as the client wrote it. strip: left out. reject: the request is refused. clamp:"
            " brought within bounds. set: replaced by `value`, also where the client named nothing."
        ),
    ]
    min: Annotated[Bound | None, Meta(description="The least that a clamp lets through.")] = None
    max: Annotated[Bound | None, Meta(description="The most that a clamp lets through.")] = None
    value: Annotated[
        Value | None, Meta(description="What `set` sends, and `clamp` where the client names nothing.")
    ] = None


def rule_of(found: PolicySummary) -> PolicyRule:
    """Return a rule as it is answered."""
    rule = found.rule
    return PolicyRule(
        field=found.field,
        action="unreadable" if rule is None else rule.action.value,
        min=None if rule is None else rule.minimum,
        max=None if rule is None else rule.maximum,
        value=None if rule is None else rule.value,
        key_id=None if found.key_id is None else str(found.key_id),
        grant_id=None if found.grant_id is None else str(found.grant_id),
        pattern=found.pattern,
    )
