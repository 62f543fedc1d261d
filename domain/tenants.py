"""The control plane's nouns as values: tenants, keys without their secret, grants, and who changed them."""

import re
from datetime import UTC, datetime
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from msgspec import UNSET, UnsetType

from domain.keys import MintedKey
from domain.limits import LimitKind
from domain.model_names import normal_pattern
from domain.one_line import is_one_line, rule_of
from domain.values import KeyId, Limits, OptionRule, Principal, Role, TenantId

MAX_NAME_CHARS: Final = 200
SLUG_RULE: Final = "1 to 63 characters from a-z, 0-9 and -, no - at either end"
_SLUG: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")

LARGEST_LIMIT: Final = {
    LimitKind.REQUESTS_PER_MINUTE: 2_147_483_647,
    LimitKind.TOKENS_PER_MINUTE: 2_147_483_647,
    LimitKind.CONCURRENCY: 2_147_483_647,
    LimitKind.TOKENS_PER_DAY: 10**15,
    LimitKind.TOKENS_PER_MONTH: 10**15,
}
"""Columns hold 32-bit numbers, and Redis counts in 64-bit floats, which are exact up to 2**53."""

Network = IPv4Network | IPv6Network


class TenantStatus(StrEnum):
    """Whether a tenant's keys work at all."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


class KeyStatus(StrEnum):
    """Whether a key works; a revoked one never does again."""

    ACTIVE = "active"
    REVOKED = "revoked"


class RevocationScope(StrEnum):
    """Whose cached rights a revocation makes void: one key's, or those of all keys of a tenant."""

    KEY = "key"
    TENANT = "tenant"


class ControlError(Exception):
    """A change was refused. The text is one sentence for the operator and holds no secret."""


class TenantUnknown(ControlError):  # noqa: N818 - reads as what happened
    """No tenant has this slug."""

    def __init__(self, slug: str) -> None:
        super().__init__(f"there is no tenant {slug!r}")


class SlugTaken(ControlError):  # noqa: N818
    """Another tenant has this slug."""

    def __init__(self, slug: str) -> None:
        super().__init__(f"there is a tenant {slug!r} already")


class SlugInvalid(ControlError):  # noqa: N818
    """A slug must fit into URLs, log fields and file names."""

    def __init__(self, slug: str) -> None:
        super().__init__(f"{slug!r} is no tenant slug: {SLUG_RULE}")


class KeyUnknown(ControlError):  # noqa: N818
    """No key of this tenant answers to this id or prefix."""

    def __init__(self, reference: str) -> None:
        super().__init__(f"there is no key {reference} here")


class KeyEnded(ControlError):  # noqa: N818
    """A revoked key stays as it is."""

    def __init__(self, prefix: str) -> None:
        super().__init__(f"key {prefix} is revoked, which is for good; create a new one")


class KeyExpired(ControlError):  # noqa: N818
    """A key whose time is over cannot be replaced while it works."""

    def __init__(self, prefix: str, at: datetime) -> None:
        super().__init__(
            f"key {prefix} expired at {at.astimezone(UTC):%Y-%m-%d %H:%M} UTC; create a new one, or give it a"
            " later expiry first"
        )


class KeyReplaced(ControlError):  # noqa: N818
    """A key is replaced once; whoever lost the successor rotates that one."""

    def __init__(self, prefix: str, successor: str) -> None:
        super().__init__(f"key {prefix} was rotated before: {successor} replaces it, so rotate that one")


class ExpiryPast(ControlError):  # noqa: N818
    """A key cannot end in the past: revoking it says so plainly."""

    def __init__(self, at: datetime) -> None:
        super().__init__(f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC is over; a key must expire in the future")


class NameMissing(ControlError):  # noqa: N818
    """A name for people can be seen, and fits into one line of a list or a log."""

    def __init__(self) -> None:
        super().__init__(f"a name {rule_of(MAX_NAME_CHARS)}")


class TimeZoneUnknown(ControlError):  # noqa: N818
    """The IANA list has no such zone."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} is no time zone; name one like Europe/Berlin")


class PatternInvalid(ControlError):  # noqa: N818
    """A grant needs a model name or a glob that some name could match."""

    def __init__(self, pattern: str) -> None:
        super().__init__(f"{pattern!r} is no model name or glob")


class GrantUnknown(ControlError):  # noqa: N818
    """Neither this tenant nor the key holds a grant of this pattern."""

    def __init__(self, pattern: str) -> None:
        super().__init__(f"there is no grant {pattern!r} here")
        self.pattern = pattern


class LimitInvalid(ControlError):  # noqa: N818
    """A limit is a whole number of at least 1, and not beyond what can be counted exactly."""

    def __init__(self, kind: LimitKind, value: int) -> None:
        super().__init__(f"{kind.value} cannot be {value}: it takes 1 to {LARGEST_LIMIT[kind]}")


class Actor(msgspec.Struct, frozen=True):
    """Who changes something: `name` is like `cli:root` or an admin key's prefix; `address` an IP address."""

    name: str
    request_id: UUID | None = None
    address: str | None = None


class AuditEvent(msgspec.Struct, frozen=True):
    """One change, or one failed login. `before` and `after` are values without secrets."""

    id: UUID
    at: datetime
    actor: str
    action: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    request_id: UUID | None
    address: str | None


class AuditFilter(msgspec.Struct, frozen=True):
    """Which events are wanted; None stands for any. `since` counts, `until` does not."""

    subject: str | None = None
    action: str | None = None
    actor: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Tenant(msgspec.Struct, frozen=True):
    """A tenant. `time_zone` (IANA) decides when its days and months begin."""

    id: TenantId
    slug: str
    name: str
    status: TenantStatus
    time_zone: str
    allow_all_models: bool
    created_at: datetime


class TenantChange(msgspec.Struct, frozen=True):
    """What to change about a tenant; what is UNSET stays."""

    name: str | UnsetType = UNSET
    time_zone: str | UnsetType = UNSET
    allow_all_models: bool | UnsetType = UNSET


class KeySummary(msgspec.Struct, frozen=True):
    """A key as operators see it. `rotated_from` is the key it replaces.

    `allow_all_models`: True opens all that its tenant has, False leaves only its own grants, None what these say, or
    without any whatever its tenant may.
    """

    id: KeyId
    tenant_id: TenantId | None
    name: str
    role: Role
    prefix: str
    status: KeyStatus
    created_at: datetime
    expires_at: datetime | None
    allowed_networks: tuple[str, ...]
    path_allowed: bool
    last_used_at: datetime | None
    rotated_from: KeyId | None = None
    allow_all_models: bool | None = None


class KeyChange(msgspec.Struct, frozen=True):
    """What to change about a key; what is UNSET stays. `expires_at` None means never, no networks mean any."""

    name: str | UnsetType = UNSET
    expires_at: datetime | UnsetType | None = UNSET
    allowed_networks: tuple[Network, ...] | UnsetType = UNSET
    path_allowed: bool | UnsetType = UNSET
    allow_all_models: bool | UnsetType | None = UNSET


class RefusedKey(msgspec.Struct, frozen=True):
    """What there is to a key that was refused to somebody who presented it whole."""

    id: KeyId
    role: Role
    status: KeyStatus
    expires_at: datetime | None
    allowed_networks: tuple[str, ...]


class IssuedKey(msgspec.Struct, frozen=True):
    """A key just created: the only moment its text exists."""

    minted: MintedKey
    summary: KeySummary


class Rotation(msgspec.Struct, frozen=True):
    """A key's successor, just created, and the key itself as it stands now: with an end, or revoked."""

    issued: IssuedKey
    replaced: KeySummary


class GrantSummary(msgspec.Struct, frozen=True):
    """One pattern; `key_id` None means that the whole tenant holds it."""

    id: UUID
    pattern: str
    key_id: KeyId | None
    created_at: datetime


class PolicySummary(msgspec.Struct, frozen=True):
    """One rule of an option policy and where it stands.

    `key_id` None means the tenant's level, `pattern` and `grant_id` name the grant where it is a grant's. `rule` None
    means that what is stored cannot be read: until it is repaired clients may not name the field.
    """

    field: str
    rule: OptionRule | None
    key_id: KeyId | None
    pattern: str | None
    grant_id: UUID | None


class LimitSummary(msgspec.Struct, frozen=True):
    """What one level limits; `key_id` None means the whole tenant."""

    limits: Limits
    key_id: KeyId | None


class Found(msgspec.Struct, frozen=True):
    """What the store knows about a digest, and the revocation seq it was true at.

    `pepper_id` names the pepper that proved the key; it differs from the minting one after a rotation.
    """

    principal: Principal | None
    seq: int
    pepper_id: str | None = None


class KeyUse(msgspec.Struct, frozen=True):
    """That a key was used, and its digest under the minting pepper when another pepper had proved it."""

    key_id: KeyId
    at: datetime
    redigest: tuple[str, bytes] | None = None


class Revocation(msgspec.Struct, frozen=True):
    """One entry of what caches must forget; `seq` is in the order of commit.

    `usable` False says that the key, or every key of the tenant, had ended when this was read: nobody needs to ask
    what became of it. Otherwise something about it changed.
    """

    seq: int
    scope: RevocationScope
    subject_id: UUID
    at: datetime
    usable: bool = True


def checked_slug(slug: str) -> str:
    """Return the slug.

    Raises
    ------
    SlugInvalid
        It cannot be one.
    """
    if not _SLUG.fullmatch(slug):
        raise SlugInvalid(slug)
    return slug


def checked_name(name: str) -> str:
    """Return a name for people, without the blanks around it.

    Raises
    ------
    NameMissing
        There is nothing to see, or more than one line holds.
    """
    if not is_one_line(name, MAX_NAME_CHARS):
        raise NameMissing
    return name.strip()


def checked_time_zone(name: str) -> str:
    """Return the IANA name of a time zone.

    Raises
    ------
    TimeZoneUnknown
        There is none of that name.
    """
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise TimeZoneUnknown(name) from None
    return name


def checked_limit(kind: LimitKind, value: int | None) -> int | None:
    """Return a limit's value; None stands for no limit.

    Raises
    ------
    LimitInvalid
        It cannot be one.
    """
    if value is not None and not 1 <= value <= LARGEST_LIMIT[kind]:
        raise LimitInvalid(kind, value)
    return value


def checked_pattern(pattern: str) -> str:
    """Return a model name or glob in its canonical form (`llama3` becomes `llama3:latest`).

    Raises
    ------
    PatternInvalid
        No model could ever match it.
    """
    normal = normal_pattern(pattern)
    if normal is None:
        raise PatternInvalid(pattern)
    return normal
