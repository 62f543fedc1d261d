"""Keys of whatever owner, for operators who know a key by its prefix and nothing else, or want to see all of them."""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Select, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from db.key_summary import SUMMARY, summary_of
from db.keys import key_named
from db.tables import ApiKeyTable, TenantTable
from domain.tenants import KeySummary, KeyUnknown


class OwnedKey(NamedTuple):
    """A key, and its owner's slug; None: it is an admin key."""

    summary: KeySummary
    slug: str | None


class EveryKey:
    """All keys, to be looked at; `db.keys` changes those of one owner."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def list(
        self, *, after: tuple[datetime, UUID] | None = None, limit: int | None = None
    ) -> tuple[OwnedKey, ...]:
        """Return keys, oldest first, revoked ones too: all, or a page of `limit` keys.

        `after` is when the last key of the page before was created, and its id.
        """
        order = ApiKeyTable.created_at, ApiKeyTable.id
        query = _owned().order_by(*order).limit(limit)
        return await self._read(query if after is None else query.where(tuple_(*order) > after))

    async def find(self, reference: str) -> OwnedKey:
        """Return one key by its prefix or id.

        Raises
        ------
        KeyUnknown
            Nobody has it.
        """
        for found in await self._read(_owned().where(key_named(reference))):
            return found
        raise KeyUnknown(reference)

    async def _read(self, query: Select[Any]) -> tuple[OwnedKey, ...]:
        return tuple(OwnedKey(summary_of(row), row.slug) for row in await self._session.execute(query))


def _owned() -> Select[Any]:
    return select(*SUMMARY, TenantTable.slug).outerjoin(TenantTable, TenantTable.id == ApiKeyTable.tenant_id)
