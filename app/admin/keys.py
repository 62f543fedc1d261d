"""`/admin/v1/tenants/{slug}/keys`: what a tenant's callers prove themselves with; `admin-keys`: what operators do."""

import time
from datetime import datetime, timedelta
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
import structlog
from litestar import Controller, Response, get, patch, post
from litestar.openapi.spec import Example
from litestar.params import Body, QueryParameter
from msgspec import UNSET, UnsetType
from redis.exceptions import RedisError

from app.admin import etags, paging
from app.admin.administration import Administration
from app.admin.contract import JsonBody
from app.admin.handed import Admin, By
from app.admin.holders import named, scoped
from app.admin.idempotency import Created, IdempotencyKey, Once
from app.admin.key_contract import (
    AdminKeyChange,
    Confirmation,
    IssuedKey,
    Key,
    KeyChange,
    KeyInPath,
    KeyPage,
    KeyRotation,
    NewAdminKey,
    NewKey,
    RevokedKey,
    RotatedKey,
    expiry,
    key_of,
    networks,
    reference,
)
from app.admin.key_owners import OF_OPERATORS, OF_TENANT, KeyOwner, OwnerInPath
from app.admin.logins import Caller
from app.cursors import cursor_at
from db import revocation_wait
from db.postgres import UnitOfWork
from domain import tenants as domain
from domain.tenants import KeyStatus, KeySummary

_log = structlog.get_logger()

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


class _KeyController(Controller):
    """The keys of one owner."""

    tags = ("keys",)

    @get(operation_id=named("list{scope}Keys"), summary="List {whose} keys")
    async def list_keys(
        self,
        owner: OwnerInPath,
        admin: Admin,
        caller: By,
        limit: paging.Limit = paging.DEFAULT_ENTRIES,
        cursor: paging.Cursor = None,
    ) -> KeyPage:
        """Answer a page; the cursor holds the last key of the page before."""
        after = paging.place_of(cursor, tuple[datetime, UUID])
        async with admin.database.unit_of_work(caller.actor) as work:
            found = await (await owner.keys(work)).list(after=after, limit=limit + 1)
        last = found[limit - 1] if len(found) > limit else None
        return KeyPage(
            items=tuple(key_of(each) for each in found[:limit]),
            next_cursor=cursor_at((last.created_at, last.id)) if last else None,
        )

    @get(
        "/{key:str}",
        operation_id=named("get{scope}Key"),
        summary="Get one of {whose} keys",
        opt={"etag": True},
    )
    async def get_key(self, owner: OwnerInPath, key: KeyInPath, admin: Admin, caller: By) -> Response[Key]:
        """Answer one key."""
        async with admin.database.unit_of_work(caller.actor) as work:
            return _answer(await (await owner.keys(work)).get(reference(key)))

    @post(
        "/{key:str}/rotate",
        operation_id=named("rotate{scope}Key"),
        summary="Replace one of {whose} keys by a successor with the same rights; both work for a while",
        dto=JsonBody[KeyRotation],
        return_dto=None,
        opt={"refuses": (409,)},
    )
    async def rotate_key(
        self,
        *,
        owner: OwnerInPath,
        key: KeyInPath,
        data: Annotated[KeyRotation, _ROTATION],
        admin: Admin,
        caller: By,
    ) -> Response[RotatedKey]:
        """Answer the successor, whose text is told once."""
        expires_at = UNSET if data.expires_at is UNSET else expiry(data.expires_at)
        async with admin.database.unit_of_work(caller.actor) as work:
            keys = await owner.keys(work)
            rotated = await keys.rotate(
                reference(key),
                peppers=admin.peppers,
                overlap=timedelta(seconds=data.overlap_seconds),
                expires_at=expires_at,
            )
            successor = rotated.issued.summary
            owner.check_reach(
                caller.principal,
                expires_at=successor.expires_at,
                allowed_networks=successor.allowed_networks,
            )
        summary = key_of(successor)
        return Response(
            RotatedKey(
                key=rotated.issued.minted.reveal(), summary=summary, replaced=key_of(rotated.replaced)
            ),
            headers={"location": f"{owner.path}/{summary.prefix}"},
        )

    @post(
        "/{key:str}/revoke",
        operation_id=named("revoke{scope}Key"),
        summary="Revoke one of {whose} keys for good",
        status_code=200,
    )
    async def revoke_key(
        self, *, owner: OwnerInPath, key: KeyInPath, admin: Admin, caller: By, wait: Wait = False
    ) -> RevokedKey:
        """Answer the key. Repeating it changes nothing."""
        async with admin.database.unit_of_work(caller.actor) as work:
            keys = await owner.keys(work)
            before = await keys.get(reference(key))
            after = await keys.revoke(str(before.id))
        committed = time.monotonic()
        return RevokedKey(
            key=key_of(after),
            changed=before.status is KeyStatus.ACTIVE,
            confirmation=await _confirmation(admin, committed) if wait else None,
        )


class TenantKeyController(_KeyController):
    """The keys of one tenant."""

    path = "/tenants/{slug:str}/keys"
    dependencies = OF_TENANT
    opt = scoped("", "a tenant's")

    @post(
        operation_id="createKey",
        summary="Create a key of a tenant; its text is told once",
        dto=JsonBody[NewKey],
        return_dto=None,
        opt={"refuses": (409, 422)},
    )
    async def create_key(
        self,
        *,
        owner: OwnerInPath,
        data: Annotated[NewKey, _NEW],
        admin: Admin,
        caller: By,
        idempotency_key: IdempotencyKey = None,
    ) -> Response[IssuedKey]:
        """Answer the new key."""
        return await _created(owner, data, admin, caller, idempotency_key, path_allowed=data.path_allowed)

    @patch(
        "/{key:str}",
        operation_id="changeKey",
        summary="Change the name, expiry, networks or reach of one of a tenant's keys",
        dto=JsonBody[KeyChange],
        return_dto=None,
        opt={"refuses": (409, 412), "etag": True},
    )
    async def change_key(
        self,
        *,
        owner: OwnerInPath,
        key: KeyInPath,
        data: Annotated[KeyChange, _CHANGE],
        admin: Admin,
        caller: By,
        if_match: etags.IfMatch = None,
    ) -> Response[Key]:
        """Answer what the key is like now."""
        change = msgspec.structs.replace(
            _change(data), path_allowed=data.path_allowed, allow_all_models=data.allow_all_models
        )
        return await _changed(owner, key, change, admin, caller, if_match=if_match)


class AdminKeyController(_KeyController):
    """The keys of the operators."""

    path = "/admin-keys"
    dependencies = OF_OPERATORS
    opt = scoped("Admin", "the operators'")

    @post(
        operation_id="createAdminKey",
        summary="Create an admin key; its text is told once",
        dto=JsonBody[NewAdminKey],
        return_dto=None,
        opt={"refuses": (409, 422)},
    )
    async def create_admin_key(
        self,
        *,
        owner: OwnerInPath,
        data: Annotated[NewAdminKey, _NEW],
        admin: Admin,
        caller: By,
        idempotency_key: IdempotencyKey = None,
    ) -> Response[IssuedKey]:
        """Answer the new key."""
        return await _created(owner, data, admin, caller, idempotency_key)

    @patch(
        "/{key:str}",
        operation_id="changeAdminKey",
        summary="Change an admin key's name, expiry or networks",
        dto=JsonBody[AdminKeyChange],
        return_dto=None,
        opt={"refuses": (409, 412), "etag": True},
    )
    async def change_admin_key(
        self,
        *,
        owner: OwnerInPath,
        key: KeyInPath,
        data: Annotated[AdminKeyChange, _CHANGE],
        admin: Admin,
        caller: By,
        if_match: etags.IfMatch = None,
    ) -> Response[Key]:
        """Answer what the key is like now."""
        return await _changed(owner, key, _change(data), admin, caller, if_match=if_match)


async def _created(
    owner: KeyOwner,
    wanted: NewAdminKey,
    admin: Administration,
    caller: Caller,
    idempotency_key: str | None,
    *,
    path_allowed: bool = False,
) -> Response[IssuedKey]:
    expires_at, reach = expiry(wanted.expires_at), networks(wanted.allowed_networks)
    owner.check_reach(caller.principal, expires_at=expires_at, allowed_networks=tuple(map(str, reach)))

    async def made(work: UnitOfWork) -> Created[IssuedKey]:
        issued = await (await owner.keys(work)).create(
            wanted.name,
            peppers=admin.peppers,
            expires_at=expires_at,
            allowed_networks=reach,
            path_allowed=path_allowed,
        )
        summary = key_of(issued.summary)
        answer = IssuedKey(key=issued.minted.reveal(), summary=summary)
        return Created(answer, f"{owner.path}/{summary.prefix}", told_once=True)

    once = Once(caller, idempotency_key, owner.path, wanted)
    async with admin.database.unit_of_work(caller.actor) as work:
        return await once.create(work, lambda: made(work))


def _change(asked: AdminKeyChange) -> domain.KeyChange:
    return domain.KeyChange(
        asked.name,
        UNSET if asked.expires_at is UNSET else expiry(asked.expires_at),
        UNSET if asked.allowed_networks is UNSET else networks(asked.allowed_networks),
    )


async def _changed(
    owner: KeyOwner,
    key: str,
    change: domain.KeyChange,
    admin: Administration,
    caller: Caller,
    *,
    if_match: str | None,
) -> Response[Key]:
    reach = change.allowed_networks
    owner.check_reach(
        caller.principal,
        expires_at=change.expires_at,
        allowed_networks=reach if isinstance(reach, UnsetType) else tuple(map(str, reach)),
    )
    async with admin.database.unit_of_work(caller.actor) as work:
        # From here to the commit nobody else changes anything, so what was compared is what is changed.
        await work.revocations.lock()
        keys = await owner.keys(work)
        before = await keys.get(reference(key))
        etags.check(if_match, _etag(before))
        return _answer(await keys.change(str(before.id), change))


def _answer(key: KeySummary) -> Response[Key]:
    return Response(key_of(key), headers={"etag": _etag(key)})


def _etag(key: KeySummary) -> str:
    """Return a key's ETag: of what somebody may change, not of its use or of time passing."""
    return etags.etag_of(msgspec.structs.replace(key, last_used_at=None))


async def _confirmation(admin: Administration, committed: float) -> Confirmation | None:
    seq = await admin.revocations.latest_seq()
    try:
        found = await revocation_wait.confirmation(seq, seen=admin.seen, since=committed)
    except (RedisError, OSError) as exc:
        _log.warning("confirmation_unavailable", error=type(exc).__name__)
        return None
    return Confirmation(confirmed=found.confirmed, missing=found.missing, seconds=round(found.seconds, 4))
