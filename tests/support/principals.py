"""Builders of proven callers."""

from uuid import UUID, uuid4

from domain.values import KeyId, OptionPolicies, Principal, Rights, Role, TenantId


def principal(
    *,
    key_id: UUID | None = None,
    tenant_id: UUID | None = None,
    role: Role = Role.INFERENCE,
    rights: Rights | None = None,
    key_rights: Rights | None = None,
    option_policies: OptionPolicies | None = None,
) -> Principal:
    """Build the principal of a key that may use every model and never expires."""
    return Principal(
        tenant_id=None if role is Role.ADMIN else TenantId(tenant_id or uuid4()),
        tenant_slug="acme",
        key_id=KeyId(key_id or uuid4()),
        key_prefix="nng_abcdefgh",
        role=role,
        tenant_rights=rights or Rights(allow_all_models=True),
        key_rights=key_rights,
        option_policies=option_policies,
        expires_at=None,
    )
