"""Grants: which models a tenant or one of its keys may use."""

from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, Row, delete, func, or_, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from db.audit import AuditLog
from db.keys import key_named
from db.tables import ApiKeyTable, ModelGrantTable
from domain.tenants import GrantSummary, GrantUnknown, KeyUnknown, checked_pattern
from domain.values import KeyId, TenantId

_SUMMARY: Final = (
    ModelGrantTable.id,
    ModelGrantTable.pattern,
    ModelGrantTable.key_id,
    ModelGrantTable.created_at,
)
NO_KEY: Final = UUID(int=0)
"""Stands for the tenant itself where levels are put in order: before every key."""


class Grants:
    """The grants of one tenant and of its keys. A key's grants never reach beyond its tenant's."""

    def __init__(self, session: AsyncSession, tenant_id: TenantId, audit: AuditLog) -> None:
        self._session = session
        self._tenant_id = tenant_id
        self._audit = audit
        self._my_keys = select(ApiKeyTable.id).where(ApiKeyTable.tenant_id == tenant_id)

    async def allow(self, pattern: str, *, key: str | None = None) -> bool:
        """Grant a canonical model name or a glob over them; return False if it was granted before.

        Parameters
        ----------
        pattern
            `llama3.2:latest`, `qwen3:*`.
        key
            The id or prefix of the key that gets it; None for the whole tenant.

        Raises
        ------
        PatternInvalid, KeyUnknown
            Nothing was granted.
        """
        pattern = checked_pattern(pattern)
        holder = await holder_of_grants(self._session, self._tenant_id, key)
        made = await self._session.execute(
            insert(ModelGrantTable)
            .values(pattern=pattern, **holder)
            .on_conflict_do_nothing()
            .returning(ModelGrantTable.id)
        )
        if made.first() is None:
            return False
        await self._audit.append(
            "grant.allow", audited(holder), after={"pattern": pattern, "option_policy": {}}
        )
        return True

    async def disallow(self, pattern: str, *, key: str | None = None) -> bool:
        """Take one grant back; return False if there was none of that pattern.

        Raises
        ------
        PatternInvalid, KeyUnknown
            Nothing was changed.
        """
        return await self._remove(ModelGrantTable.pattern == checked_pattern(pattern), key)

    async def remove(self, grant_id: UUID, *, key: str | None = None) -> bool:
        """Take one grant back by its id, whatever its pattern; return False if there is none.

        Raises
        ------
        KeyUnknown
            Nothing was changed.
        """
        return await self._remove(ModelGrantTable.id == grant_id, key)

    async def get(self, grant_id: UUID, *, key: str | None = None) -> GrantSummary:
        """Return one grant of the key; for None of the tenant itself.

        Raises
        ------
        KeyUnknown, GrantUnknown
            There is none of this id there.
        """
        holder = await holder_of_grants(self._session, self._tenant_id, key)
        found = await self._session.execute(
            select(*_SUMMARY).filter_by(**holder).where(ModelGrantTable.id == grant_id)
        )
        row = found.first()
        if row is None:
            raise GrantUnknown(str(grant_id))
        return _summary(row)

    async def list(
        self,
        *,
        key: str | None = None,
        below: bool = True,
        pattern: str | None = None,
        after: tuple[str, UUID] | None = None,
        limit: int | None = None,
    ) -> tuple[GrantSummary, ...]:
        """Return the grants of one key, or of the tenant and all its keys, by pattern: all, or a page of `limit`.

        Parameters
        ----------
        key
            The id or prefix of the key; None for the tenant.
        below
            Whether the tenant's keys count as well.
        pattern
            The only pattern that is wanted; None for all.
        after
            Pattern and key (`NO_KEY` for the tenant itself) of the grant to go on after.
        limit
            How many at most.

        Raises
        ------
        PatternInvalid, KeyUnknown
            It can be no pattern, or the tenant has no such key.
        """
        order = ModelGrantTable.pattern, func.coalesce(ModelGrantTable.key_id, NO_KEY)
        mine = select(*_SUMMARY).order_by(*order).limit(limit)
        if key is None and below:
            mine = mine.where(
                or_(
                    ModelGrantTable.tenant_id == self._tenant_id,
                    ModelGrantTable.key_id.in_(self._my_keys),
                )
            )
        else:
            mine = mine.filter_by(**await holder_of_grants(self._session, self._tenant_id, key))
        if pattern is not None:
            mine = mine.where(ModelGrantTable.pattern == checked_pattern(pattern))
        if after is not None:
            mine = mine.where(tuple_(*order) > after)
        return tuple(_summary(row) for row in await self._session.execute(mine))

    async def _remove(self, which: ColumnElement[bool], key: str | None) -> bool:
        holder = await holder_of_grants(self._session, self._tenant_id, key)
        gone = await self._session.execute(
            delete(ModelGrantTable)
            .filter_by(**holder)
            .where(which)
            .returning(ModelGrantTable.pattern, ModelGrantTable.option_policy)
            .execution_options(synchronize_session=False)
        )
        grant = gone.first()
        if grant is None:
            return False
        # Its policy goes with it, and nothing else would remember that.
        before = {"pattern": grant.pattern, "option_policy": grant.option_policy}
        await self._audit.append("grant.disallow", audited(holder), before=before)
        return True


def _summary(row: Row[UUID, str, UUID | None, datetime]) -> GrantSummary:
    return GrantSummary(
        row.id, row.pattern, None if row.key_id is None else KeyId(row.key_id), row.created_at
    )


async def holder_of_grants(
    session: AsyncSession, tenant_id: TenantId, key: str | None
) -> dict[str, TenantId | KeyId]:
    """Return the column that names the tenant or one of its keys, and its value.

    Raises
    ------
    KeyUnknown
        The tenant has no key of this id or prefix.
    """
    if key is None:
        return {"tenant_id": tenant_id}
    mine = select(ApiKeyTable.id).where(ApiKeyTable.tenant_id == tenant_id, key_named(key))
    found = (await session.execute(mine)).scalar()
    if found is None:
        raise KeyUnknown(key)
    return {"key_id": KeyId(found)}


def audited(holder: dict[str, TenantId | KeyId]) -> str:
    """Return how the audit log names a holder."""
    ((column, holder_id),) = holder.items()
    return f"{column.removesuffix('_id')}:{holder_id}"
