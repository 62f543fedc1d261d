"""`/admin/v1/keys`: all keys, for whoever wants to see them at once, or knows one by its prefix and nothing else."""

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from litestar import Controller, get
from litestar.params import QueryParameter

from app.admin import paging
from app.admin.handed import Admin, By
from app.admin.key_contract import OwnedKeyPage, owned_key_of, reference
from app.cursors import cursor_at
from db.every_key import OwnedKey
from db.postgres import UnitOfWork
from domain.tenants import KeyUnknown

MAX_REFERENCE_CHARS: Final = 200
"""Enough for a whole key that was pasted, of which the prefix is taken."""


KeyWanted = Annotated[
    str | None,
    QueryParameter(
        name="key",
        max_length=MAX_REFERENCE_CHARS,
        description="Only the key of this prefix (`nng_` or `nnga_` and eight characters) or id.",
    ),
]


class EveryKeyController(Controller):
    """All keys, whoever owns them."""

    path = "/keys"
    tags = ("keys",)

    @get(operation_id="listAllKeys", summary="List all keys, whoever owns them, or find one by its prefix")
    async def list_every_key(
        self,
        *,
        admin: Admin,
        caller: By,
        key: KeyWanted = None,
        limit: paging.Limit = paging.DEFAULT_ENTRIES,
        cursor: paging.Cursor = None,
    ) -> OwnedKeyPage:
        """Answer a page; the cursor holds the last key of the page before. What nobody has is no entry."""
        after = paging.place_of(cursor, tuple[datetime, UUID])
        async with admin.database.unit_of_work(caller.actor) as work:
            if key is None:
                found = await work.every_key.list(after=after, limit=limit + 1)
            else:
                found = await _named(work, key)
        last = found[limit - 1].summary if len(found) > limit else None
        return OwnedKeyPage(
            items=tuple(owned_key_of(each) for each in found[:limit]),
            next_cursor=cursor_at((last.created_at, last.id)) if last else None,
        )


async def _named(work: UnitOfWork, key: str) -> tuple[OwnedKey, ...]:
    try:
        return (await work.every_key.find(reference(key)),)
    except KeyUnknown:
        return ()
