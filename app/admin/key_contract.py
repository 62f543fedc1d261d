"""What keys look like on the wire, and what of a request about them can be."""

import re
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from litestar.params import PathParameter
from msgspec import UNSET, Meta, UnsetType

from app.admin import paging
from app.admin.contract import Answered, Asked, Moment, Name, pointer, utc
from app.admin.errors import FieldError, InvalidFields
from db import every_key
from domain.rotations import MAX_OVERLAP_S
from domain.tenants import ExpiryPast, KeyStatus, KeySummary, KeyUnknown, Network

MAX_NETWORKS: Final = 64
DEFAULT_OVERLAP_S: Final = 86_400

_PREFIX: Final = re.compile(r"(nnga?_[0-9A-Za-z]{8})(?:_[0-9A-Za-z_]*)?")

KeyInPath = Annotated[
    str,
    PathParameter(description="The key's prefix (`nng_` or `nnga_` and eight characters) or its id."),
]
Networks = Annotated[
    tuple[Annotated[str, Meta(max_length=50, examples=["10.0.0.0/8"])], ...],
    Meta(max_length=MAX_NETWORKS, description="Only callers from there may use it; none: from anywhere."),
]


PathAllowed = Annotated[
    bool,
    Meta(
        description="Whether it may stand in paths, for clients that cannot set headers; proxies and histories"
        " remember it there."
    ),
]
AllModels = Annotated[
    bool | None,
    Meta(
        description="true: it may use all that its tenant may. false: only what its own grants name. null: these, or"
        " without any all that its tenant may."
    ),
]


class Key(Answered):
    """A key as operators see it: never with its text."""

    id: Annotated[str, Meta(description="How the audit log names it.", extra_json_schema={"format": "uuid"})]
    prefix: Annotated[
        str, Meta(description="Its readable head, by which logs name it.", examples=["nng_4fT9xQ2b"])
    ]
    name: Name
    role: Annotated[Literal["inference", "admin"], Meta(description="Which surface it opens.")]
    status: Annotated[
        Literal["active", "revoked", "expired"],
        Meta(description="Whether it works; a suspended tenant's does not."),
    ]
    created_at: Moment
    expires_at: Annotated[Moment | None, Meta(description="When it ends by itself; null: never.")]
    allowed_networks: Networks
    path_allowed: PathAllowed
    allow_all_models: AllModels
    last_used_at: Annotated[Moment | None, Meta(description="To the minute; null: never.")]
    rotated_from: Annotated[
        str | None,
        Meta(
            description="The id of the key that it replaces; null: none.",
            extra_json_schema={"format": "uuid"},
        ),
    ]


class KeyPage(Answered):
    """Keys, oldest first, revoked ones too."""

    items: tuple[Key, ...]
    next_cursor: paging.NextCursor


class OwnedKey(Key):
    """A key and whose it is."""

    tenant: Annotated[str | None, Meta(description="Its tenant's slug; null: it is an admin key.")]
    tenant_id: Annotated[
        str | None,
        Meta(description="Its tenant's id; null: it is an admin key.", extra_json_schema={"format": "uuid"}),
    ]


class OwnedKeyPage(Answered):
    """Keys of whatever owner, oldest first, revoked ones too."""

    items: tuple[OwnedKey, ...]
    next_cursor: paging.NextCursor


class NewAdminKey(Asked):
    """An admin key to create. It cannot outlive the key that creates it, nor work from where that does not."""

    name: Annotated[Name, Meta(description="What it is for, so that it can be told from others.")]
    expires_at: Annotated[Moment | None, Meta(description="When it ends by itself; null: never.")] = None
    allowed_networks: Networks = ()


class NewKey(NewAdminKey):
    """What to create."""

    path_allowed: PathAllowed = False


class AdminKeyChange(Asked):
    """What to change of an admin key; what is left out stays. Its bounds are those of creating one."""

    name: Name | UnsetType = UNSET
    expires_at: (
        Annotated[
            Moment | None,
            Meta(description="When it ends by itself; null: never. Later lets an expired key work again."),
        ]
        | UnsetType
    ) = UNSET
    allowed_networks: Networks | UnsetType = UNSET


class KeyChange(AdminKeyChange):
    """What to change; what is left out stays."""

    path_allowed: PathAllowed | UnsetType = UNSET
    allow_all_models: AllModels | UnsetType = UNSET


class KeyRotation(Asked):
    """How to replace a key."""

    overlap_seconds: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_OVERLAP_S,
            description="How long both keys work, but the old one never longer than it would have; 0 revokes it.",
        ),
    ] = DEFAULT_OVERLAP_S
    expires_at: (
        Annotated[
            Moment | None,
            Meta(description="When the successor ends; null: never. Default: when the key would have ended."),
        ]
        | UnsetType
    ) = UNSET


class IssuedKey(Answered):
    """A key just created: the only time that its text is told."""

    key: Annotated[str, Meta(description="The whole key. It is not kept anywhere and cannot be told again.")]
    summary: Key

    def __repr__(self) -> str:
        return f"IssuedKey({self.summary.prefix}_***)"


class RotatedKey(IssuedKey):
    """A key's successor with the same rights, and the key itself as it stands now."""

    replaced: Key


class Confirmation(Answered):
    """Which processes have said that they act upon a revocation."""

    confirmed: tuple[str, ...]
    missing: Annotated[tuple[str, ...], Meta(description="Those that had not within 5 seconds.")]
    seconds: Annotated[float, Meta(ge=0, description="From the commit until the last of them had.")]


class RevokedKey(Answered):
    """A key that does not work any more."""

    key: Key
    changed: Annotated[bool, Meta(description="Whether it was active until now.")]
    confirmation: Annotated[
        Confirmation | None,
        Meta(
            description="Null where nobody waited, or Redis is away and nobody can confirm. The bound is 2 s then."
        ),
    ]


def key_of(key: KeySummary) -> Key:
    """Return a key as it is answered."""
    over = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    return Key(
        id=str(key.id),
        prefix=key.prefix,
        name=key.name,
        role=key.role.value,
        status="expired" if over and key.status is KeyStatus.ACTIVE else key.status.value,
        created_at=key.created_at,
        expires_at=key.expires_at,
        allowed_networks=key.allowed_networks,
        path_allowed=key.path_allowed,
        allow_all_models=key.allow_all_models,
        last_used_at=key.last_used_at,
        rotated_from=None if key.rotated_from is None else str(key.rotated_from),
    )


def owned_key_of(found: every_key.OwnedKey) -> OwnedKey:
    """Return a key with its owner as it is answered."""
    tenant_id = found.summary.tenant_id
    return OwnedKey(
        **msgspec.structs.asdict(key_of(found.summary)),
        tenant=found.slug,
        tenant_id=None if tenant_id is None else str(tenant_id),
    )


def reference(text: str) -> str:
    """Return the prefix or id that somebody means; of a whole key that was pasted its prefix.

    Raises
    ------
    KeyUnknown
        It is neither. The text is not repeated: it might be a damaged key.
    """
    prefix = _PREFIX.fullmatch(text)
    if prefix is not None:
        return prefix[1]
    try:
        return str(UUID(text))
    except ValueError:
        raise KeyUnknown("of that prefix or id") from None


def expiry(moment: datetime | None) -> datetime | None:
    """Return when a key shall end, in UTC; None means never.

    Raises
    ------
    InvalidFields, ExpiryPast
        It cannot end then.
    """
    if moment is None:
        return None
    at = utc(moment, pointer="#/expiresAt")
    if at <= datetime.now(UTC):
        raise ExpiryPast(at)
    return at


def networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    """Return networks as values.

    Raises
    ------
    InvalidFields
        Some are none; all of them are told.
    """
    found: list[Network] = []
    errors: list[FieldError] = []
    for position, text in enumerate(texts):
        try:
            found.append(ip_network(text))
        except ValueError:
            wrong = "This is no network such as 10.0.0.0/8 or 2001:db8::/32."
            errors.append(FieldError(wrong, pointer=pointer("allowedNetworks", position)))
    if errors:
        raise InvalidFields(errors)
    return tuple(found)
