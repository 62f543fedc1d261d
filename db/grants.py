"""Grants: which models a tenant or one of its keys may use."""

from sqlalchemy import delete, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from db.audit import AuditLog
from db.keys import key_named
from db.tables import ApiKeyTable, ModelGrantTable
from domain.tenants import GrantSummary, KeyUnknown, checked_pattern
from domain.values import KeyId, TenantId


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
        pattern = checked_pattern(pattern)
        holder = await holder_of_grants(self._session, self._tenant_id, key)
        gone = await self._session.execute(
            delete(ModelGrantTable)
            .filter_by(pattern=pattern, **holder)
            .returning(ModelGrantTable.option_policy)
            .execution_options(synchronize_session=False)
        )
        grant = gone.first()
        if grant is None:
            return False
        # Its policy goes with it, and nothing else would remember that.
        before = {"pattern": pattern, "option_policy": grant.option_policy}
        await self._audit.append("grant.disallow", audited(holder), before=before)
        return True

    async def list(self, *, key: str | None = None) -> tuple[GrantSummary, ...]:
        """Return the grants of one key, or of the tenant and all its keys, by pattern.

        Raises
        ------
        KeyUnknown
            The tenant has no such key.
        """
        mine = select(ModelGrantTable.pattern, ModelGrantTable.key_id, ModelGrantTable.created_at).order_by(
            ModelGrantTable.pattern, ModelGrantTable.key_id.nulls_first()
        )
        if key is None:
            mine = mine.where(
                or_(
                    ModelGrantTable.tenant_id == self._tenant_id,
                    ModelGrantTable.key_id.in_(self._my_keys),
                )
            )
        else:
            mine = mine.filter_by(**await holder_of_grants(self._session, self._tenant_id, key))
        found = await self._session.execute(mine)
        return tuple(
            GrantSummary(pattern, None if key_id is None else KeyId(key_id), created_at)
            for pattern, key_id, created_at in found
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
