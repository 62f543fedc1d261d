"""Tenants."""

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from msgspec import UNSET
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from db.audit import AuditLog
from db.keys import key_named
from db.revocations import lock_revocations
from db.tables import ApiKeyTable, TenantLimitsTable, TenantTable
from domain.tenants import (
    KeyUnknown,
    SlugTaken,
    Tenant,
    TenantChange,
    TenantStatus,
    TenantUnknown,
    checked_name,
    checked_slug,
    checked_time_zone,
)
from domain.values import TenantId

_DECIDED: Final = {TenantStatus.SUSPENDED: "tenant.suspend", TenantStatus.ACTIVE: "tenant.activate"}


class Tenants:
    """The tenants, seen by an operator."""

    def __init__(self, session: AsyncSession, audit: AuditLog) -> None:
        self._session = session
        self._audit = audit
        self._every = (
            select(
                TenantTable.id,
                TenantTable.slug,
                TenantTable.name,
                TenantTable.status,
                TenantTable.time_zone,
                func.coalesce(TenantLimitsTable.allow_all_models, False),
                TenantTable.created_at,
            )
            .outerjoin(TenantLimitsTable, TenantLimitsTable.tenant_id == TenantTable.id)
            .order_by(TenantTable.slug)
        )

    async def create(
        self, slug: str, name: str, *, time_zone: str = "UTC", allow_all_models: bool = False
    ) -> Tenant:
        """Add an active tenant without limits.

        Raises
        ------
        SlugInvalid, SlugTaken, NameMissing, TimeZoneUnknown
            Nothing was added.
        """
        made = await self._session.execute(
            insert(TenantTable)
            .values(slug=checked_slug(slug), name=checked_name(name), time_zone=checked_time_zone(time_zone))
            .on_conflict_do_nothing(index_elements=[TenantTable.slug])
            .returning(TenantTable.id)
        )
        tenant_id = made.scalar()
        if tenant_id is None:
            raise SlugTaken(slug)
        await self._session.execute(
            insert(TenantLimitsTable).values(tenant_id=tenant_id, allow_all_models=allow_all_models)
        )
        tenant = await self.get(slug)
        await self._audit.append("tenant.create", f"tenant:{tenant.id}", after=tenant)
        return tenant

    async def list(self, *, after: str | None = None, limit: int | None = None) -> tuple[Tenant, ...]:
        """Return tenants by slug: all, or a page of `limit` that begins after the slug `after`."""
        query = self._every.limit(limit)
        found = await self._session.execute(query if after is None else query.where(TenantTable.slug > after))
        return tuple(_tenant(row) for row in found)

    async def get(self, slug: str) -> Tenant:
        """Return one tenant.

        Raises
        ------
        TenantUnknown
            There is none of that slug.
        """
        found = await self._session.execute(self._every.where(TenantTable.slug == slug))
        row = found.first()
        if row is None:
            raise TenantUnknown(slug)
        return _tenant(row)

    async def set_status(self, slug: str, status: TenantStatus) -> Tenant:
        """Suspend a tenant or let it back in; its keys follow within moments. Repeating it leaves no trace.

        Raises
        ------
        TenantUnknown
            There is none of that slug.
        """
        await lock_revocations(self._session)
        before = await self.get(slug)
        if before.status is status:
            return before
        await self._update(before.id, {"status": status})
        after = await self.get(slug)
        await self._audit.append(_DECIDED[status], f"tenant:{after.id}", before=before, after=after)
        return after

    async def change(self, slug: str, change: TenantChange) -> Tenant:
        """Change a tenant's name, time zone, or whether every model is open to it. To change nothing leaves no trace.

        Another time zone begins other days and months at once: quotas are counted anew for them from the ledger.

        Raises
        ------
        TenantUnknown, NameMissing, TimeZoneUnknown
            Nothing was changed.
        """
        # The lock of the triggers before any row's: a name alone would not take it, and all models come second.
        await lock_revocations(self._session)
        before = await self.get(slug)
        values = {}
        if change.name is not UNSET:
            values["name"] = checked_name(change.name)
        if change.time_zone is not UNSET:
            values["time_zone"] = checked_time_zone(change.time_zone)
        if values:
            await self._update(before.id, values)
        if change.allow_all_models is not UNSET:
            await self._allow_all_models(before.id, allowed=change.allow_all_models)
        after = await self.get(slug)
        if after != before:
            await self._audit.append("tenant.set", f"tenant:{after.id}", before=before, after=after)
        return after

    async def owner_of_key(self, reference: str) -> TenantId | None:
        """Return whose key this is, None for an admin key: for operators who name a key and nothing else.

        Parameters
        ----------
        reference
            A key's prefix or id.

        Raises
        ------
        KeyUnknown
            No key answers to it.
        """
        found = await self._session.execute(select(ApiKeyTable.tenant_id).where(key_named(reference)))
        owner = found.first()
        if owner is None:
            raise KeyUnknown(reference)
        return None if owner[0] is None else TenantId(owner[0])

    async def _update(self, tenant_id: TenantId, values: dict[str, Any]) -> None:
        await self._session.execute(
            update(TenantTable)
            .where(TenantTable.id == tenant_id)
            .values(values)
            .execution_options(synchronize_session=False)
        )

    async def _allow_all_models(self, tenant_id: TenantId, *, allowed: bool) -> None:
        await self._session.execute(
            insert(TenantLimitsTable)
            .values(tenant_id=tenant_id, allow_all_models=allowed)
            .on_conflict_do_update(
                index_elements=[TenantLimitsTable.tenant_id],
                set_={"allow_all_models": allowed, "updated_at": func.now()},
            )
        )


def _tenant(row: tuple[UUID, str, str, TenantStatus, str, bool, datetime]) -> Tenant:
    tenant_id, slug, name, status, time_zone, allow_all_models, created_at = row
    return Tenant(TenantId(tenant_id), slug, name, status, time_zone, allow_all_models, created_at)
