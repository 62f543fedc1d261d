"""How a key's row becomes what operators see of it, and what they change becomes columns."""

from typing import Any, Final

from msgspec import UNSET
from sqlalchemy import select

from db.tables import ApiKeyTable, KeyLimitsTable
from domain.tenants import KeyChange, KeySummary, checked_name
from domain.values import KeyId, Role, TenantId

SUMMARY: Final = (
    ApiKeyTable.id,
    ApiKeyTable.tenant_id,
    ApiKeyTable.name,
    ApiKeyTable.role,
    ApiKeyTable.prefix,
    ApiKeyTable.status,
    ApiKeyTable.created_at,
    ApiKeyTable.expires_at,
    ApiKeyTable.allowed_networks,
    ApiKeyTable.path_allowed,
    ApiKeyTable.last_used_at,
    ApiKeyTable.rotated_from,
    select(KeyLimitsTable.allow_all_models)
    .where(KeyLimitsTable.key_id == ApiKeyTable.id)
    .scalar_subquery()
    .label("allow_all_models"),
)
"""The columns that `summary_of` reads."""


def changed_columns(before: KeySummary, change: KeyChange) -> dict[str, Any]:
    """Return the columns of the key's own row that a change gives another value."""
    values: dict[str, Any] = {}
    if change.name is not UNSET and (name := checked_name(change.name)) != before.name:
        values["name"] = name
    if change.expires_at is not UNSET and change.expires_at != before.expires_at:
        values["expires_at"] = change.expires_at
    if change.allowed_networks is not UNSET:
        networks = list(change.allowed_networks)
        if tuple(map(str, networks)) != before.allowed_networks:
            values["allowed_networks"] = networks
    if change.path_allowed is not UNSET and change.path_allowed != before.path_allowed:
        values["path_allowed"] = change.path_allowed
    return values


def summary_of(row: Any) -> KeySummary:
    """Return the value of a row."""
    return KeySummary(
        id=KeyId(row.id),
        tenant_id=None if row.tenant_id is None else TenantId(row.tenant_id),
        name=row.name,
        role=Role(row.role),
        prefix=row.prefix,
        status=row.status,
        created_at=row.created_at,
        expires_at=row.expires_at,
        allowed_networks=tuple(str(network) for network in row.allowed_networks),
        path_allowed=row.path_allowed,
        last_used_at=row.last_used_at,
        rotated_from=None if row.rotated_from is None else KeyId(row.rotated_from),
        allow_all_models=row.allow_all_models,
    )
