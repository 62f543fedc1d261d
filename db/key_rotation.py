"""The steps of replacing a key by a successor. `db.keys` takes them, in one transaction and under one lock."""

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from db.tables import ApiKeyTable, KeyLimitsTable, ModelGrantTable
from domain.tenants import KeyEnded, KeyExpired, KeyReplaced, KeyStatus, KeySummary
from domain.values import KeyId

_OF_THE_ROW_ITSELF: Final = frozenset({"id", "tenant_id", "key_id", "created_at", "updated_at"})


async def check_rotation(session: AsyncSession, key: KeySummary) -> datetime:
    """Return the time of the transaction, at which this key can be replaced.

    Raises
    ------
    KeyReplaced, KeyEnded, KeyExpired
        It cannot: it was replaced before, is revoked, or its time is over.
    """
    successor = select(ApiKeyTable.prefix).where(ApiKeyTable.rotated_from == key.id).limit(1)
    now: datetime
    now, replaced_by = (await session.execute(select(func.now(), successor.scalar_subquery()))).one()
    # First of all, as it also says where to go on.
    if replaced_by is not None:
        raise KeyReplaced(key.prefix, replaced_by)
    if key.status is KeyStatus.REVOKED:
        raise KeyEnded(key.prefix)
    if key.expires_at is not None and key.expires_at <= now:
        raise KeyExpired(key.prefix, key.expires_at)
    return now


async def copy_rights(session: AsyncSession, old: KeyId, new: KeyId) -> dict[str, Any]:
    """Give a new key the limits, grants and policies of an old one, and return them as the audit log notes them."""
    limits = await _copy(session, KeyLimitsTable.__table__, old, new)
    grants = await _copy(session, ModelGrantTable.__table__, old, new)
    return {"limits": limits[0] if limits else None, "grants": grants}


async def end_after(session: AsyncSession, key_id: KeyId, overlap: timedelta) -> None:
    """Let a key work for as long as the overlap at most; revoke it if that is no time at all."""
    ends: dict[str, Any] = {"status": KeyStatus.REVOKED}
    if overlap > timedelta(0):
        # LEAST passes over NULL: a key without an expiry gets one.
        ends = {"expires_at": func.least(ApiKeyTable.expires_at, func.now() + overlap)}
    await session.execute(
        update(ApiKeyTable)
        .where(ApiKeyTable.id == key_id)
        .values(ends)
        .execution_options(synchronize_session=False)
    )


async def _copy(session: AsyncSession, table: Any, old: KeyId, new: KeyId) -> list[dict[str, Any]]:
    """Copy a key's rows, whatever columns there are: a right that is added later must not get lost here."""
    columns = [column for column in table.c if column.name not in _OF_THE_ROW_ITSELF]
    rows = select(literal(new), *columns).where(table.c.key_id == old)
    made = await session.execute(
        insert(table)
        # Without the defaults of our own: one id would be made for all rows. The server makes one for each.
        .from_select(["key_id", *columns], rows, include_defaults=False)
        .returning(*columns)
    )
    return [dict(row) for row in made.mappings()]
