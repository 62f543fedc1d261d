"""`/admin/v1/tenants/{slug}/keys`: what a tenant's callers prove themselves with."""

import time
from datetime import datetime, timedelta
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
import structlog
from litestar import Controller, Response, get, patch, post
from litestar.openapi.spec import Example
from litestar.params import Body, PathParameter, QueryParameter
from msgspec import UNSET
from redis.exceptions import RedisError

from app.admin import etags, paging
from app.admin.administration import Administration
from app.admin.contract import JsonBody
from app.admin.handed import Admin, By
from app.admin.idempotency import Created, IdempotencyKey, Once
from app.admin.key_contract import (
    Confirmation,
    IssuedKey,
    Key,
    KeyChange,
    KeyPage,
    KeyRotation,
    NewKey,
    RevokedKey,
    RotatedKey,
    expiry,
    key_of,
    networks,
    reference,
)
from app.admin.tenants import SlugInPath
from app.cursors import cursor_at
from db import revocation_wait
from db.postgres import UnitOfWork
from domain import tenants as domain
from domain.keys import PepperRing
from domain.tenants import KeyStatus, KeySummary

_log = structlog.get_logger()

KeyInPath = Annotated[
    str, PathParameter(description="The key's prefix (`nng_` and eight characters) or its id.")
]
Wait = Annotated[
    bool,
    QueryParameter(
        name="wait",
        description="Answer when every running process has confirmed that it refuses the key, or after 5 seconds.",
    ),
]
_NEW: Final[Any] = Body(
    examples=[
        Example(
            "laptop",
            value={"name": "laptop", "expiresAt": "2027-06-30T00:00:00Z", "allowedNetworks": ["10.0.0.0/8"]},
        )
    ]
)
_CHANGE: Final[Any] = Body(examples=[Example("one office", value={"allowedNetworks": ["192.0.2.0/24"]})])
_ROTATION: Final[Any] = Body(examples=[Example("a day", value={"overlapSeconds": 86400})])


class KeyController(Controller):
    """The keys of one tenant."""

    path = "/tenants/{slug:str}/keys"
    tags = ("keys",)

    @get(operation_id="listKeys", summary="List a tenant's keys")
    async def list_keys(
        self,
        slug: SlugInPath,
        admin: Admin,
        caller: By,
        limit: paging.Limit = paging.DEFAULT_ENTRIES,
        cursor: paging.Cursor = None,
    ) -> KeyPage:
        """Answer a page; the cursor holds the last key of the page before."""
        after = paging.place_of(cursor, tuple[datetime, UUID])
        async with admin.database.unit_of_work(caller.actor) as work:
            owner = await work.tenants.get(slug)
            found = await work.keys(owner.id).list(after=after, limit=limit + 1)
        more = len(found) > limit
        last = found[limit - 1] if more else None
        return KeyPage(
            items=tuple(key_of(each) for each in found[:limit]),
            next_cursor=cursor_at((last.created_at, last.id)) if last else None,
        )

    @post(
        operation_id="createKey",
        summary="Create a key; its text is told once",
        dto=JsonBody[NewKey],
        return_dto=None,
        opt={"refuses": (409, 422)},
    )
    async def create_key(
        self,
        *,
        slug: SlugInPath,
        data: Annotated[NewKey, _NEW],
        admin: Admin,
        caller: By,
        idempotency_key: IdempotencyKey = None,
    ) -> Response[IssuedKey]:
        """Answer the new key."""
        once = Once(caller, idempotency_key, f"/admin/v1/tenants/{slug}/keys", data)
        async with admin.database.unit_of_work(caller.actor) as work:
            return await once.create(work, lambda: _made(work, slug, data, peppers=admin.peppers))

    @get("/{key:str}", operation_id="getKey", summary="Get a key", opt={"etag": True})
    async def get_key(self, slug: SlugInPath, key: KeyInPath, admin: Admin, caller: By) -> Response[Key]:
        """Answer one key."""
        async with admin.database.unit_of_work(caller.actor) as work:
            owner = await work.tenants.get(slug)
            return _answer(await work.keys(owner.id).get(reference(key)))

    @patch(
        "/{key:str}",
        operation_id="changeKey",
        summary="Change a key's name, expiry or networks",
        dto=JsonBody[KeyChange],
        return_dto=None,
        opt={"refuses": (409, 412), "etag": True},
    )
    async def change_key(
        self,
        *,
        slug: SlugInPath,
        key: KeyInPath,
        data: Annotated[KeyChange, _CHANGE],
        admin: Admin,
        caller: By,
        if_match: etags.IfMatch = None,
    ) -> Response[Key]:
        """Answer what the key is like now."""
        change = domain.KeyChange(
            data.name,
            UNSET if data.expires_at is UNSET else expiry(data.expires_at),
            UNSET if data.allowed_networks is UNSET else networks(data.allowed_networks),
            data.path_allowed,
            data.allow_all_models,
        )
        async with admin.database.unit_of_work(caller.actor) as work:
            # From here to the commit nobody else changes anything, so what was compared is what is changed.
            await work.revocations.lock()
            owner = await work.tenants.get(slug)
            keys = work.keys(owner.id)
            before = await keys.get(reference(key))
            etags.check(if_match, _etag(before))
            after = await keys.change(str(before.id), change)
        return _answer(after)

    @post(
        "/{key:str}/rotate",
        operation_id="rotateKey",
        summary="Replace a key by a successor with the same rights; both work for a while",
        dto=JsonBody[KeyRotation],
        return_dto=None,
        opt={"refuses": (409,)},
    )
    async def rotate_key(
        self,
        *,
        slug: SlugInPath,
        key: KeyInPath,
        data: Annotated[KeyRotation, _ROTATION],
        admin: Admin,
        caller: By,
    ) -> Response[RotatedKey]:
        """Answer the successor, whose text is told once."""
        expires_at = UNSET if data.expires_at is UNSET else expiry(data.expires_at)
        async with admin.database.unit_of_work(caller.actor) as work:
            owner = await work.tenants.get(slug)
            rotated = await work.keys(owner.id).rotate(
                reference(key),
                peppers=admin.peppers,
                overlap=timedelta(seconds=data.overlap_seconds),
                expires_at=expires_at,
            )
        summary = key_of(rotated.issued.summary)
        return Response(
            RotatedKey(
                key=rotated.issued.minted.reveal(), summary=summary, replaced=key_of(rotated.replaced)
            ),
            headers={"location": _location(slug, summary)},
        )

    @post(
        "/{key:str}/revoke",
        operation_id="revokeKey",
        summary="Revoke a key for good",
        status_code=200,
    )
    async def revoke_key(
        self, *, slug: SlugInPath, key: KeyInPath, admin: Admin, caller: By, wait: Wait = False
    ) -> RevokedKey:
        """Answer the key. Repeating it changes nothing."""
        async with admin.database.unit_of_work(caller.actor) as work:
            owner = await work.tenants.get(slug)
            keys = work.keys(owner.id)
            before = await keys.get(reference(key))
            after = await keys.revoke(str(before.id))
        committed = time.monotonic()
        return RevokedKey(
            key=key_of(after),
            changed=before.status is KeyStatus.ACTIVE,
            confirmation=await _confirmation(admin, committed) if wait else None,
        )


async def _made(work: UnitOfWork, slug: str, wanted: NewKey, *, peppers: PepperRing) -> Created[IssuedKey]:
    owner = await work.tenants.get(slug)
    issued = await work.keys(owner.id).create(
        wanted.name,
        peppers=peppers,
        expires_at=expiry(wanted.expires_at),
        allowed_networks=networks(wanted.allowed_networks),
        path_allowed=wanted.path_allowed,
    )
    summary = key_of(issued.summary)
    answer = IssuedKey(key=issued.minted.reveal(), summary=summary)
    return Created(answer, _location(slug, summary), told_once=True)


def _answer(key: KeySummary) -> Response[Key]:
    return Response(key_of(key), headers={"etag": _etag(key)})


def _etag(key: KeySummary) -> str:
    """Return a key's ETag: of what somebody may change, not of its use or of time passing."""
    return etags.etag_of(msgspec.structs.replace(key, last_used_at=None))


def _location(slug: str, key: Key) -> str:
    return f"/admin/v1/tenants/{slug}/keys/{key.prefix}"


async def _confirmation(admin: Administration, committed: float) -> Confirmation | None:
    seq = await admin.revocations.latest_seq()
    try:
        found = await revocation_wait.confirmation(seq, seen=admin.seen, since=committed)
    except (RedisError, OSError) as exc:
        _log.warning("confirmation_unavailable", error=type(exc).__name__)
        return None
    return Confirmation(confirmed=found.confirmed, missing=found.missing, seconds=round(found.seconds, 4))
