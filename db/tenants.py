"""Tenants."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from db.audit import AuditLog
from db.keys import key_named
from db.tables import ApiKeyTable, TenantLimitsTable, TenantTable
from domain.tenants import KeyUnknown, SlugTaken, Tenant, TenantStatus, TenantUnknown, checked_slug
from domain.values import TenantId


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
        SlugInvalid, SlugTaken
            Nothing was added.
        """
        made = await self._session.execute(
            insert(TenantTable)
            .values(slug=checked_slug(slug), name=name, time_zone=time_zone)
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

    async def list(self) -> tuple[Tenant, ...]:
        """Return all tenants by slug."""
        found = await self._session.execute(self._every)
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
        """Suspend a tenant or let it back in; its keys follow within moments.

        Raises
        ------
        TenantUnknown
            There is none of that slug.
        """
        before = await self.get(slug)
        await self._session.execute(
            update(TenantTable)
            .where(TenantTable.id == before.id)
            .values(status=status)
            .execution_options(synchronize_session=False)
        )
        after = await self.get(slug)
        await self._audit.append(f"tenant.{status.value}", f"tenant:{after.id}", before=before, after=after)
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


def _tenant(row: tuple[UUID, str, str, TenantStatus, str, bool, datetime]) -> Tenant:
    tenant_id, slug, name, status, time_zone, allow_all_models, created_at = row
    return Tenant(TenantId(tenant_id), slug, name, status, time_zone, allow_all_models, created_at)
