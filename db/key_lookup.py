"""The one look-up of keys that knows no tenant: by digest, for the request path."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import structlog
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.option_rules import stored_policy
from domain.tenants import Found, KeyUse
from domain.values import KeyId, Limits, OptionPolicies, OptionPolicy, Principal, Rights, Role, TenantId

_log = structlog.get_logger()

# One statement, so that the principal and the seq are of one snapshot; the seq is there without a key, too.
_FIND: Final = text("""
    SELECT newest.seq, found.*
    FROM (SELECT COALESCE(max(seq), 0) AS seq FROM revocations) AS newest
    LEFT JOIN LATERAL (
        SELECT
            k.id, k.tenant_id, COALESCE(t.slug, '') AS slug, k.prefix, k.role, k.expires_at, k.pepper_id,
            ARRAY(SELECT n::text FROM unnest(k.allowed_networks) AS n) AS networks,
            COALESCE(tl.allow_all_models, false) AS tenant_all, kl.allow_all_models AS key_all,
            ARRAY(SELECT g.pattern FROM model_grants AS g
                  WHERE g.tenant_id = k.tenant_id ORDER BY g.pattern) AS tenant_patterns,
            ARRAY(SELECT g.pattern FROM model_grants AS g
                  WHERE g.key_id = k.id ORDER BY g.pattern) AS key_patterns,
            COALESCE(t.time_zone, 'UTC') AS time_zone, k.path_allowed,
            tl.rpm AS tenant_rpm, tl.tpm AS tenant_tpm, tl.concurrency AS tenant_concurrency,
            tl.tokens_per_day AS tenant_tokens_per_day, tl.tokens_per_month AS tenant_tokens_per_month,
            kl.rpm AS key_rpm, kl.tpm AS key_tpm, kl.concurrency AS key_concurrency,
            kl.tokens_per_day AS key_tokens_per_day, kl.tokens_per_month AS key_tokens_per_month,
            NULLIF(tl.option_policy, '{}')::text AS tenant_policy,
            NULLIF(kl.option_policy, '{}')::text AS key_policy,
            (SELECT jsonb_object_agg(g.pattern, g.option_policy)::text FROM model_grants AS g
             WHERE g.tenant_id = k.tenant_id AND g.option_policy <> '{}') AS tenant_grant_policies,
            (SELECT jsonb_object_agg(g.pattern, g.option_policy)::text FROM model_grants AS g
             WHERE g.key_id = k.id AND g.option_policy <> '{}') AS key_grant_policies
        FROM api_keys AS k
        LEFT JOIN tenants AS t ON t.id = k.tenant_id
        LEFT JOIN tenant_limits AS tl ON tl.tenant_id = k.tenant_id
        LEFT JOIN key_limits AS kl ON kl.key_id = k.id
        WHERE k.digest = ANY(CAST(:digests AS bytea[]))
          AND k.status = 'active' AND (k.expires_at IS NULL OR k.expires_at > now())
          AND (k.tenant_id IS NULL OR t.status = 'active')
        LIMIT 1
    ) AS found ON true
""")

# A key somebody else is writing is passed over: the time is a hint, and waiting could deadlock.
_TOUCH: Final = text("""
    WITH used AS (
        SELECT * FROM unnest(
            CAST(:ids AS uuid[]), CAST(:times AS timestamptz[]),
            CAST(:pepper_ids AS text[]), CAST(:digests AS bytea[])
        ) AS u (id, at, pepper_id, digest)
    ), free AS (
        SELECT k.id FROM api_keys AS k JOIN used USING (id) FOR NO KEY UPDATE OF k SKIP LOCKED
    )
    UPDATE api_keys AS k
    SET last_used_at = GREATEST(k.last_used_at, used.at),
        pepper_id = COALESCE(used.pepper_id, k.pepper_id),
        digest = COALESCE(used.digest, k.digest)
    FROM used JOIN free USING (id)
    WHERE k.id = used.id
""")


class KeyLookup:
    """The request path's view of keys: by digest, whoever owns it. One statement per call."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def find_by_digest(self, digests: tuple[bytes, ...]) -> Found:
        """Return the principal of a usable key, and the revocation seq of the same snapshot.

        Usable: active, not expired, of an active tenant or of no tenant (an admin's).
        """
        async with self._engine.connect() as connection:
            row = (await connection.execute(_FIND, {"digests": digests})).one()
        if row.id is None:
            return Found(None, row.seq)
        return Found(_principal(row), row.seq, row.pepper_id)

    async def touch(self, uses: Sequence[KeyUse]) -> None:
        """Note when keys were last used, and re-digest those an older pepper had proved. Revokes nothing.

        One entry per key. A key that is being written this very moment may be passed over.
        """
        async with self._engine.connect() as connection:
            await connection.execute(
                _TOUCH,
                {
                    "ids": [use.key_id for use in uses],
                    "times": [use.at for use in uses],
                    "pepper_ids": [use.redigest[0] if use.redigest else None for use in uses],
                    "digests": [use.redigest[1] if use.redigest else None for use in uses],
                },
            )


def _principal(row: Row[Any]) -> Principal:
    return Principal(
        tenant_id=None if row.tenant_id is None else TenantId(row.tenant_id),
        tenant_slug=row.slug,
        key_id=KeyId(row.id),
        key_prefix=row.prefix,
        role=Role(row.role),
        tenant_rights=Rights(row.tenant_all, tuple(row.tenant_patterns)),
        key_rights=_key_rights(tuple(row.key_patterns), allow_all_models=row.key_all),
        option_policies=_option_policies(row),
        tenant_limits=Limits(
            row.tenant_rpm,
            row.tenant_tpm,
            row.tenant_concurrency,
            row.tenant_tokens_per_day,
            row.tenant_tokens_per_month,
        ),
        key_limits=Limits(
            row.key_rpm, row.key_tpm, row.key_concurrency, row.key_tokens_per_day, row.key_tokens_per_month
        ),
        time_zone=row.time_zone,
        path_allowed=row.path_allowed,
        expires_at=row.expires_at,
        allowed_networks=tuple(row.networks),
    )


def _key_rights(patterns: tuple[str, ...], *, allow_all_models: bool | None) -> Rights | None:
    """Return a key's own rights, None where it inherits its tenant's.

    True opens all that the tenant has; otherwise its own grants count, if it has any; without grants NULL
    inherits and false leaves nothing.
    """
    if allow_all_models:
        return Rights(allow_all_models=True)
    if patterns or allow_all_models is False:
        return Rights(patterns=patterns)
    return None


def _option_policies(row: Row[Any]) -> OptionPolicies | None:
    """Return what the levels say, None where none says anything, as with nearly every key."""
    levels = row.tenant_policy, row.tenant_grant_policies, row.key_policy, row.key_grant_policies
    if not any(levels):
        return None
    tenant, tenant_grants, key, key_grants = (msgspec.json.decode(level or "{}") for level in levels)
    return OptionPolicies(
        tenant=_option_policy(row, tenant),
        tenant_grants={pattern: _option_policy(row, policy) for pattern, policy in tenant_grants.items()},
        key=_option_policy(row, key),
        key_grants={pattern: _option_policy(row, policy) for pattern, policy in key_grants.items()},
    )


def _option_policy(row: Row[Any], document: dict[str, object]) -> OptionPolicy:
    policy, damaged = stored_policy(document)
    if damaged:
        # Only raw SQL can write one; its fields are refused to clients until somebody repairs it.
        _log.warning("option_policy_damaged", key_id=str(row.id), fields=damaged)
    return policy
