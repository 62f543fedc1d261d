"""Values that stages hand to one another. All frozen; none knows where it is stored."""

from datetime import datetime
from enum import StrEnum
from typing import NewType
from uuid import UUID

import msgspec

TenantId = NewType("TenantId", UUID)
KeyId = NewType("KeyId", UUID)
RequestId = NewType("RequestId", UUID)


class ApiFamily(StrEnum):
    """Whose wire format a route speaks; decides the shape of every error on it."""

    NATIVE = "native"
    OPENAI = "openai"


class Role(StrEnum):
    """What a key is for. A key of one role is unknown to the routes of the other."""

    INFERENCE = "inference"
    ADMIN = "admin"


class Rights(msgspec.Struct, frozen=True):
    """Which models somebody may use: everything, or names and globs over canonical model names."""

    allow_all_models: bool = False
    patterns: tuple[str, ...] = ()


class Principal(msgspec.Struct, frozen=True):
    """The proven caller of one request.

    `tenant_rights` bound `key_rights`; `key_rights` None means the key inherits its tenant's.
    """

    tenant_id: TenantId | None
    tenant_slug: str
    key_id: KeyId
    key_prefix: str
    role: Role
    tenant_rights: Rights
    key_rights: Rights | None
    expires_at: datetime | None
    allowed_networks: tuple[str, ...] = ()
