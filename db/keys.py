"""API keys: those of one tenant (or the admins') for operators, and the one look-up that knows no tenant."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from msgspec import UNSET, UnsetType
from sqlalchemy import ColumnElement, Row, func, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from db.audit import AuditLog
from db.key_rotation import check_rotation, copy_rights, end_after
from db.key_summary import SUMMARY, changed_columns, summary_of
from db.revocations import lock_revocations
from db.tables import ApiKeyTable
from domain.first_key import FirstKey
from domain.keys import PepperRing, mint
from domain.option_rules import stored_policy
from domain.tenants import (
    ExpiryPast,
    Found,
    IssuedKey,
    KeyChange,
    KeyEnded,
    KeyStatus,
    KeySummary,
    KeyUnknown,
    KeyUse,
    Network,
    Rotation,
    checked_name,
    key_rights,
)
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


class _Rows(SQLAlchemyAsyncRepository[ApiKeyTable]):
    model_type = ApiKeyTable


class Keys:
    """The keys of one tenant; of the admins where `tenant_id` is None."""

    def __init__(self, session: AsyncSession, tenant_id: TenantId | None, audit: AuditLog) -> None:
        self._session = session
        self._tenant_id = tenant_id
        self._audit = audit
        # IS NOT DISTINCT FROM, because NULL is an owner here: the admins.
        self._mine = ApiKeyTable.tenant_id.is_not_distinct_from(tenant_id)

    async def create(
        self,
        name: str,
        *,
        peppers: PepperRing,
        expires_at: datetime | None = None,
        allowed_networks: Sequence[Network] = (),
        path_allowed: bool = False,
    ) -> IssuedKey:
        """Mint a key. Its text is in the answer and nowhere else. No networks means any.

        `path_allowed` lets it stand in paths, where proxies and histories remember it.

        Raises
        ------
        NameMissing
            Nothing was created.
        """
        issued = await self._mint(
            peppers,
            name=checked_name(name),
            expires_at=expires_at,
            allowed_networks=list(allowed_networks),
            path_allowed=path_allowed,
        )
        await self._audit.append("key.create", f"key:{issued.summary.id}", after=issued.summary)
        return issued

    async def rotate(
        self,
        reference: str,
        *,
        peppers: PepperRing,
        overlap: timedelta,
        expires_at: datetime | UnsetType | None = UNSET,
    ) -> Rotation:
        """Replace a key by a successor with the same rights, and end it once both have worked for a while.

        The successor has the owner, name, networks, limits, grants and policies of the key, and its expiry
        unless it is given another. What the key's own limits have counted stays with the key.

        Parameters
        ----------
        reference
            The key's prefix or id.
        overlap
            How long the key still works, but never longer than it would have; zero revokes it.
        expires_at
            When the successor ends; None means never.

        Raises
        ------
        KeyUnknown, KeyReplaced, KeyEnded, KeyExpired, ExpiryPast
            Nothing was changed.
        """
        # Before anything is read: of two rotations of one key, the second must see the first one's successor.
        await lock_revocations(self._session)
        before = await self._one(reference)
        now = await check_rotation(self._session, before)
        if isinstance(expires_at, datetime) and expires_at <= now:
            raise ExpiryPast(expires_at)
        issued = await self._mint(
            peppers,
            name=before.name,
            expires_at=before.expires_at if expires_at is UNSET else expires_at,
            rotated_from=before.id,
            **await self._reach(before.id),
        )
        rights = await copy_rights(self._session, before.id, issued.summary.id)
        await end_after(self._session, before.id, overlap)
        after = await self._one(str(before.id))
        created = msgspec.to_builtins(issued.summary) | rights
        await self._audit.append("key.create", f"key:{issued.summary.id}", after=created)
        await self._audit.append("key.rotate", f"key:{before.id}", before=before, after=after)
        return Rotation(issued, after)

    async def add_minted(self, first: FirstKey, *, name: str) -> KeySummary | None:
        """Add an admin key of which only the digest is here; None if it is there already."""
        if self._tenant_id is not None:
            raise ValueError("only an admin key is ever minted elsewhere")
        made = await self._session.execute(
            insert(ApiKeyTable)
            .values(
                name=name,
                role=Role.ADMIN.value,
                prefix=first.prefix,
                digest=first.digest,
                pepper_id=first.pepper_id,
                allowed_networks=[],
            )
            .on_conflict_do_nothing()
            .returning(ApiKeyTable.id)
        )
        key_id = made.scalar()
        if key_id is None:
            return None
        summary = await self._one(str(key_id))
        await self._audit.append("key.create", f"key:{summary.id}", after=summary)
        return summary

    async def list(
        self, *, after: tuple[datetime, UUID] | None = None, limit: int | None = None
    ) -> tuple[KeySummary, ...]:
        """Return keys, oldest first, revoked ones too: all, or a page of `limit` keys.

        `after` is when the last key of the page before was created, and its id.
        """
        order = ApiKeyTable.created_at, ApiKeyTable.id
        query = select(*SUMMARY).where(self._mine).order_by(*order).limit(limit)
        if after is not None:
            query = query.where(tuple_(*order) > after)
        return tuple(summary_of(row) for row in await self._session.execute(query))

    async def get(self, reference: str) -> KeySummary:
        """Return one key by its prefix or id.

        Raises
        ------
        KeyUnknown
            No key of this owner answers to it.
        """
        return await self._one(reference)

    async def change(self, reference: str, change: KeyChange) -> KeySummary:
        """Change a key's name, expiry, networks or carriers. Requests it may no longer make are refused within moments.

        A later expiry lets an expired key work again. To change nothing leaves no trace.

        Raises
        ------
        KeyUnknown, KeyEnded, ExpiryPast, NameMissing
            Nothing was changed.
        """
        await lock_revocations(self._session)
        before = await self._one(reference)
        values = changed_columns(before, change)
        if not values:
            return before
        if before.status is KeyStatus.REVOKED:
            raise KeyEnded(before.prefix)
        expires_at = values.get("expires_at")
        if expires_at is not None and expires_at <= (await self._session.scalar(select(func.now()))):
            raise ExpiryPast(expires_at)
        await self._update(before.id, values)
        after = await self._one(str(before.id))
        await self._audit.append("key.set", f"key:{after.id}", before=before, after=after)
        return after

    async def revoke(self, reference: str) -> KeySummary:
        """End a key for good, by its prefix or id; every process refuses it within moments.

        Repeating it changes nothing.

        Raises
        ------
        KeyUnknown
            No key of this owner answers to it.
        """
        await lock_revocations(self._session)
        before = await self._one(reference)
        if before.status is KeyStatus.REVOKED:
            return before
        await self._update(before.id, {"status": KeyStatus.REVOKED})
        after = await self._one(reference)
        await self._audit.append("key.revoke", f"key:{after.id}", before=before, after=after)
        return after

    async def _mint(self, peppers: PepperRing, **columns: Any) -> IssuedKey:
        role = Role.ADMIN if self._tenant_id is None else Role.INFERENCE
        minted = mint(role)
        pepper_id, digest = peppers.mint_digest(minted.reveal())
        row = await _Rows(session=self._session).add(
            ApiKeyTable(
                tenant_id=self._tenant_id,
                role=role.value,
                prefix=minted.prefix,
                digest=digest,
                pepper_id=pepper_id,
                **columns,
            )
        )
        return IssuedKey(minted, await self._one(str(row.id)))

    async def _reach(self, key_id: KeyId) -> dict[str, Any]:
        """Return from where and how a key may be presented, by column."""
        columns = ApiKeyTable.allowed_networks, ApiKeyTable.path_allowed
        found = await self._session.execute(select(*columns).where(self._mine, ApiKeyTable.id == key_id))
        return dict(found.mappings().one())

    async def _update(self, key_id: KeyId, values: dict[str, Any]) -> None:
        await self._session.execute(
            update(ApiKeyTable)
            .where(self._mine, ApiKeyTable.id == key_id)
            .values(values)
            .execution_options(synchronize_session=False)
        )

    async def _one(self, reference: str) -> KeySummary:
        found = await self._session.execute(select(*SUMMARY).where(self._mine, key_named(reference)))
        row = found.first()
        if row is None:
            raise KeyUnknown(reference)
        return summary_of(row)


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


def key_named(reference: str) -> ColumnElement[bool]:
    """Return the condition that a key has this id or prefix."""
    try:
        return ApiKeyTable.id == UUID(reference)
    except ValueError:
        return ApiKeyTable.prefix == reference


def _principal(row: Row[Any]) -> Principal:
    return Principal(
        tenant_id=None if row.tenant_id is None else TenantId(row.tenant_id),
        tenant_slug=row.slug,
        key_id=KeyId(row.id),
        key_prefix=row.prefix,
        role=Role(row.role),
        tenant_rights=Rights(row.tenant_all, tuple(row.tenant_patterns)),
        key_rights=key_rights(tuple(row.key_patterns), allow_all_models=row.key_all),
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
