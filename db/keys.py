"""API keys of one tenant, or of the admins, as operators handle them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from msgspec import UNSET, UnsetType
from sqlalchemy import ColumnElement, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from db.audit import AuditLog
from db.key_rotation import check_rotation, copy_rights, end_after
from db.key_summary import SUMMARY, changed_columns, summary_of
from db.revocations import lock_revocations
from db.tables import ApiKeyTable, KeyLimitsTable
from domain.first_key import FirstKey
from domain.keys import PepperRing, mint
from domain.rotations import checked_overlap
from domain.tenants import (
    ExpiryPast,
    IssuedKey,
    KeyChange,
    KeyEnded,
    KeyStatus,
    KeySummary,
    KeyUnknown,
    Network,
    Rotation,
    checked_name,
)
from domain.values import KeyId, Role, TenantId


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
        KeyUnknown, KeyReplaced, KeyEnded, KeyExpired, ExpiryPast, OverlapInvalid
            Nothing was changed.
        """
        overlap = checked_overlap(overlap)
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
        issued = msgspec.structs.replace(issued, summary=await self._one(str(issued.summary.id)))
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
        """Change a key's name, expiry, networks, carriers, or whether all models of its tenant are open to it.

        Requests it may no longer make are refused within moments.

        A later expiry lets an expired key work again. To change nothing leaves no trace.

        Raises
        ------
        KeyUnknown, KeyEnded, ExpiryPast, NameMissing
            Nothing was changed.
        """
        await lock_revocations(self._session)
        before = await self._one(reference)
        values = changed_columns(before, change)
        asked = change.allow_all_models
        all_models = before.allow_all_models if asked is UNSET else asked
        if not values and all_models == before.allow_all_models:
            return before
        if before.status is KeyStatus.REVOKED:
            raise KeyEnded(before.prefix)
        expires_at = values.get("expires_at")
        if expires_at is not None and expires_at <= (await self._session.scalar(select(func.now()))):
            raise ExpiryPast(expires_at)
        if values:
            await self._update(before.id, values)
        if all_models != before.allow_all_models:
            await self._allow_all_models(before.id, allowed=all_models)
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

    async def _allow_all_models(self, key_id: KeyId, *, allowed: bool | None) -> None:
        await self._session.execute(
            insert(KeyLimitsTable)
            .values(key_id=key_id, allow_all_models=allowed)
            .on_conflict_do_update(
                index_elements=[KeyLimitsTable.key_id],
                set_={"allow_all_models": allowed, "updated_at": func.now()},
            )
        )

    async def _one(self, reference: str) -> KeySummary:
        found = await self._session.execute(select(*SUMMARY).where(self._mine, key_named(reference)))
        row = found.first()
        if row is None:
            raise KeyUnknown(reference)
        return summary_of(row)


def key_named(reference: str) -> ColumnElement[bool]:
    """Return the condition that a key has this id or prefix."""
    try:
        return ApiKeyTable.id == UUID(reference)
    except ValueError:
        return ApiKeyTable.prefix == reference
