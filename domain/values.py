"""Values that stages hand to one another. All frozen; none knows where it is stored."""

from datetime import datetime
from enum import StrEnum
from typing import NewType
from uuid import UUID

import msgspec

TenantId = NewType("TenantId", UUID)
KeyId = NewType("KeyId", UUID)
RequestId = NewType("RequestId", UUID)

Pieces = tuple[bytes | memoryview, ...]
"""Bytes that are sent one after another."""


class ApiFamily(StrEnum):
    """Whose wire format a route speaks; decides the shape of every error on it.

    responses: OpenAI's Responses API, which has OpenAI's error objects, but streams events of its own.
    """

    NATIVE = "native"
    OPENAI = "openai"
    RESPONSES = "responses"
    ANTHROPIC = "anthropic"


class Role(StrEnum):
    """What a key is for. A key of one role is unknown to the routes of the other."""

    INFERENCE = "inference"
    ADMIN = "admin"


class Rights(msgspec.Struct, frozen=True):
    """Which models somebody may use: everything, or names and globs over canonical model names."""

    allow_all_models: bool = False
    patterns: tuple[str, ...] = ()


class PolicyAction(StrEnum):
    """What an option policy does with a field of a request.

    allow: it travels as the client wrote it. strip: it is left out. reject: the request is refused. clamp: its
    number is brought within bounds. set: the policy's value takes its place, also where the client named none.
    """

    ALLOW = "allow"
    STRIP = "strip"
    REJECT = "reject"
    CLAMP = "clamp"
    SET = "set"


class OptionRule(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    rename={"minimum": "min", "maximum": "max"},
):
    """What happens to one field. Durations stand as Ollama takes them: seconds, or text such as `5m`.

    `minimum` and `maximum` bound a clamp. `value` is what `set` sends, and what `clamp` sends where the client
    named nothing.
    """

    action: PolicyAction
    minimum: int | float | str | None = None
    maximum: int | float | str | None = None
    value: bool | int | float | str | None = None


OptionPolicy = dict[str, OptionRule]
"""The rules of one level by policy field (`domain.option_rules.FIELDS`)."""


class OptionPolicies(msgspec.Struct, frozen=True):
    """The option policies that concern one key, by level; those of grants by the grant's pattern."""

    tenant: OptionPolicy
    tenant_grants: dict[str, OptionPolicy]
    key: OptionPolicy
    key_grants: dict[str, OptionPolicy]


class Limits(msgspec.Struct, frozen=True):
    """The limits of one tenant or one key. None: not limited here; a key is then bound by its tenant's alone."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None

    def any_set(self) -> bool:
        """Tell whether anything is limited at all."""
        return self != NO_LIMITS

    def smallest_token_limit(self) -> int | None:
        """Return the smallest whole token limit: no request may ever need more than that."""
        return min(
            (
                limit
                for limit in (self.tokens_per_minute, self.tokens_per_day, self.tokens_per_month)
                if limit is not None
            ),
            default=None,
        )


NO_LIMITS = Limits()


class Principal(msgspec.Struct, frozen=True):
    """The proven caller of one request.

    `tenant_rights` bound `key_rights`; `key_rights` None means the key inherits its tenant's. `option_policies`
    None means that no level sets any. `time_zone` (the tenant's, IANA) decides when its quotas begin anew.
    `path_allowed` says that the key may stand in a path. Neither these nor the limits have a default: a cached
    principal of a release that knew none must not pass for one without.
    """

    tenant_id: TenantId | None
    tenant_slug: str
    key_id: KeyId
    key_prefix: str
    role: Role
    tenant_rights: Rights
    key_rights: Rights | None
    option_policies: OptionPolicies | None
    tenant_limits: Limits
    key_limits: Limits
    time_zone: str
    path_allowed: bool
    expires_at: datetime | None
    allowed_networks: tuple[str, ...] = ()
