"""Builders of proven callers."""

from uuid import UUID, uuid4

from domain.values import KeyId, Limits, OptionPolicies, Principal, Rights, Role, TenantId


def principal(
    *,
    key_id: UUID | None = None,
    tenant_id: UUID | None = None,
    role: Role = Role.INFERENCE,
    rights: Rights | None = None,
    key_rights: Rights | None = None,
    option_policies: OptionPolicies | None = None,
    tenant_limits: Limits | None = None,
    key_limits: Limits | None = None,
    time_zone: str = "UTC",
    path_allowed: bool = False,
) -> Principal:
    """Build the principal of a key that may use every model without limit and never expires."""
    return Principal(
        tenant_id=None if role is Role.ADMIN else TenantId(tenant_id or uuid4()),
        tenant_slug="acme",
        key_id=KeyId(key_id or uuid4()),
        key_prefix="nng_abcdefgh",
        role=role,
        tenant_rights=rights or Rights(allow_all_models=True),
        key_rights=key_rights,
        option_policies=option_policies,
        tenant_limits=tenant_limits or Limits(),
        key_limits=key_limits or Limits(),
        time_zone=time_zone,
        path_allowed=path_allowed,
        expires_at=None,
    )
