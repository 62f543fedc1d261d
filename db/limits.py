"""Limits: how much a tenant and each of its keys may use."""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from db.audit import AuditLog
from db.grants import audited, holder_of_grants
from db.revocations import lock_revocations
from db.tables import ApiKeyTable, KeyLimitsTable, TenantLimitsTable
from domain.limits import LimitKind
from domain.tenants import LimitSummary, checked_limit
from domain.values import KeyId, Limits, TenantId

_COLUMNS: Final = {
    LimitKind.REQUESTS_PER_MINUTE: "rpm",
    LimitKind.TOKENS_PER_MINUTE: "tpm",
    LimitKind.CONCURRENCY: "concurrency",
    LimitKind.TOKENS_PER_DAY: "tokens_per_day",
    LimitKind.TOKENS_PER_MONTH: "tokens_per_month",
}
_Table = type[TenantLimitsTable | KeyLimitsTable]


class LimitLevels:
    """The limits of one tenant and of its keys. `key` is a key's id or prefix; None means the whole tenant."""

    def __init__(self, session: AsyncSession, tenant_id: TenantId, audit: AuditLog) -> None:
        self._session = session
        self._tenant_id = tenant_id
        self._audit = audit

    async def set(self, changes: Mapping[LimitKind, int | None], *, key: str | None = None) -> bool:
        """Set some limits and leave the others; return False if all stood like this before.

        Parameters
        ----------
        changes
            What to set; None takes a limit away.

        Raises
        ------
        LimitInvalid, KeyUnknown
            Nothing was changed.
        """
        checked = {kind: checked_limit(kind, value) for kind, value in changes.items()}
        return await self._write("limits.set", checked, key)

    async def clear(self, *, key: str | None = None) -> bool:
        """Take all limits of one level away; return False if there were none.

        Raises
        ------
        KeyUnknown
            Nothing was changed.
        """
        return await self._write("limits.clear", dict.fromkeys(LimitKind), key)

    async def get(self, *, key: str | None = None) -> Limits:
        """Return what one level limits.

        Raises
        ------
        KeyUnknown
            The tenant has no such key.
        """
        return await self._read(await holder_of_grants(self._session, self._tenant_id, key))

    async def list(self) -> tuple[LimitSummary, ...]:
        """Return the tenant's limits, set or not, and then those of each key that has any, oldest key first."""
        return LimitSummary(await self.get(), None), *await self.of_keys()

    async def of_keys(
        self, *, after: UUID | None = None, limit: int | None = None
    ) -> tuple[LimitSummary, ...]:
        """Return the limits of each key that has any, by the key's id: all, or a page of `limit` after one id."""
        columns = _columns(KeyLimitsTable)
        query = (
            select(KeyLimitsTable.key_id, *columns)
            .join(ApiKeyTable, ApiKeyTable.id == KeyLimitsTable.key_id)
            .where(ApiKeyTable.tenant_id == self._tenant_id, func.num_nonnulls(*columns) > 0)
            .order_by(KeyLimitsTable.key_id)
            .limit(limit)
        )
        if after is not None:
            query = query.where(KeyLimitsTable.key_id > after)
        found = await self._session.execute(query)
        return tuple(LimitSummary(_limits(row), KeyId(row.key_id)) for row in found)

    async def _write(self, action: str, values: Mapping[LimitKind, int | None], key: str | None) -> bool:
        await lock_revocations(self._session)
        holder = await holder_of_grants(self._session, self._tenant_id, key)
        before = await self._read(holder)
        if all(getattr(before, kind.value) == value for kind, value in values.items()):
            return False
        table = _table(holder)
        columns: dict[str, Any] = {_COLUMNS[kind]: value for kind, value in values.items()}
        await self._session.execute(
            insert(table)
            .values(**holder, **columns)
            .on_conflict_do_update(index_elements=list(holder), set_={**columns, "updated_at": func.now()})
        )
        after = await self._read(holder)
        await self._audit.append(action, audited(holder), before=before, after=after)
        return True

    async def _read(self, holder: Mapping[str, TenantId | KeyId]) -> Limits:
        table = _table(holder)
        row = (await self._session.execute(select(*_columns(table)).filter_by(**holder))).first()
        return Limits() if row is None else _limits(row)


def _table(holder: Mapping[str, TenantId | KeyId]) -> _Table:
    return KeyLimitsTable if "key_id" in holder else TenantLimitsTable


def _columns(table: _Table) -> tuple[Any, ...]:
    return tuple(getattr(table, column).label(kind.value) for kind, column in _COLUMNS.items())


def _limits(row: Row[Any]) -> Limits:
    return Limits(
        row.requests_per_minute,
        row.tokens_per_minute,
        row.concurrency,
        row.tokens_per_day,
        row.tokens_per_month,
    )
