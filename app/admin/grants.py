"""`/admin/v1/tenants/{slug}/grants`, and the same below a key: which models may be used."""

from typing import Annotated, Any, Final
from uuid import UUID

from litestar import Controller, Response, delete, get, post
from litestar.openapi.spec import Example
from litestar.params import Body, PathParameter, QueryParameter
from msgspec import Meta

from app.admin import etags, paging
from app.admin.contract import Answered, Asked, JsonBody, Moment
from app.admin.errors import GrantTaken
from app.admin.handed import Admin, By
from app.admin.holders import OF_KEY, OF_TENANT, Holder, HolderInPath, named, scoped
from app.admin.idempotency import Created, IdempotencyKey, Once
from app.cursors import cursor_at
from db.grants import NO_KEY
from db.postgres import UnitOfWork
from domain.model_names import MAX_NAME_CHARS
from domain.tenants import GrantSummary, GrantUnknown, checked_pattern

Pattern = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_NAME_CHARS,
        description="A model's name, or a glob: `*` stands for any run of characters, `?` for one.",
        examples=["qwen3:*"],
    ),
]
GrantInPath = Annotated[str, PathParameter(description="The grant's id.")]
OnlyPattern = Annotated[
    str | None,
    QueryParameter(
        name="pattern",
        min_length=1,
        max_length=MAX_NAME_CHARS,
        description="Only the grants of this very name or glob, in whatever spelling.",
    ),
]
KeysToo = Annotated[bool, QueryParameter(name="below", description="Also the grants of the tenant's keys.")]


class Grant(Answered):
    """A right to the models that a name or glob covers. A key's never reaches beyond its tenant's."""

    id: Annotated[str, Meta(description="How paths name it.", extra_json_schema={"format": "uuid"})]
    pattern: Pattern
    key_id: Annotated[
        str | None,
        Meta(
            description="The key that holds it; null: the tenant does.", extra_json_schema={"format": "uuid"}
        ),
    ]
    created_at: Moment


class GrantPage(Answered):
    """Grants by pattern."""

    items: tuple[Grant, ...]
    next_cursor: paging.NextCursor


class NewGrant(Asked):
    """What to grant."""

    pattern: Pattern


_NEW: Final[Any] = Body(examples=[Example("a family of models", value={"pattern": "qwen3:*"})])


class _GrantController(Controller):
    """The grants of one holder."""

    tags = ("grants",)

    @post(
        operation_id=named("create{scope}Grant"),
        summary="Grant models to {whose}",
        dto=JsonBody[NewGrant],
        return_dto=None,
        opt={"refuses": (409, 422), "etag": True},
    )
    async def create_grant(
        self,
        holder: HolderInPath,
        data: Annotated[NewGrant, _NEW],
        admin: Admin,
        caller: By,
        idempotency_key: IdempotencyKey = None,
    ) -> Response[Grant]:
        """Answer the new grant, its pattern in the spelling that is compared."""
        once = Once(caller, idempotency_key, f"{holder.path}/grants", data)
        async with admin.database.unit_of_work(caller.actor) as work:
            return await once.create(work, lambda: _made(work, holder, data))

    @get(
        "/{grant:str}",
        operation_id=named("get{scope}Grant"),
        summary="Get a grant of {whose}",
        opt={"etag": True},
    )
    async def get_grant(
        self, holder: HolderInPath, grant: GrantInPath, admin: Admin, caller: By
    ) -> Response[Grant]:
        """Answer one grant."""
        async with admin.database.unit_of_work(caller.actor) as work:
            found = grant_of(await grant_in(work, holder, grant))
        return Response(found, headers={"etag": etags.etag_of(found)})

    @delete(
        "/{grant:str}",
        operation_id=named("delete{scope}Grant"),
        summary="Take a grant of {whose} back, and the policy rules that stand at it",
    )
    async def delete_grant(self, holder: HolderInPath, grant: GrantInPath, admin: Admin, caller: By) -> None:
        """Answer nothing."""
        async with admin.database.unit_of_work(caller.actor) as work:
            owner = await work.tenants.get(holder.slug)
            if not await work.grants(owner.id).remove(grant_id(grant), key=holder.key):
                raise GrantUnknown(grant)


class TenantGrantController(_GrantController):
    """What a tenant may use."""

    path = "/tenants/{slug:str}/grants"
    dependencies = OF_TENANT
    opt = scoped("Tenant", "a tenant")

    @get(operation_id="listTenantGrants", summary="List what was granted to a tenant")
    async def list_grants(
        self,
        *,
        holder: HolderInPath,
        admin: Admin,
        caller: By,
        below: KeysToo = False,
        pattern: OnlyPattern = None,
        limit: paging.Limit = paging.DEFAULT_ENTRIES,
        cursor: paging.Cursor = None,
    ) -> GrantPage:
        """Answer a page; the cursor holds the last grant of the page before."""
        async with admin.database.unit_of_work(caller.actor) as work:
            return await _page(work, holder, below=below, pattern=pattern, limit=limit, cursor=cursor)


class KeyGrantController(_GrantController):
    """What one key may use of what its tenant may. A key without grants may use all of that."""

    path = "/tenants/{slug:str}/keys/{key:str}/grants"
    dependencies = OF_KEY
    opt = scoped("Key", "a key")

    @get(operation_id="listKeyGrants", summary="List what was granted to a key")
    async def list_grants(
        self,
        *,
        holder: HolderInPath,
        admin: Admin,
        caller: By,
        pattern: OnlyPattern = None,
        limit: paging.Limit = paging.DEFAULT_ENTRIES,
        cursor: paging.Cursor = None,
    ) -> GrantPage:
        """Answer a page; the cursor holds the last grant of the page before."""
        async with admin.database.unit_of_work(caller.actor) as work:
            return await _page(work, holder, below=False, pattern=pattern, limit=limit, cursor=cursor)


def grant_id(text: str) -> UUID:
    """Return the id that somebody means.

    Raises
    ------
    GrantUnknown
        It is none.
    """
    try:
        return UUID(text)
    except ValueError:
        raise GrantUnknown(text) from None


async def grant_in(work: UnitOfWork, holder: Holder, grant: str) -> GrantSummary:
    """Return one grant of a holder.

    Raises
    ------
    TenantUnknown, KeyUnknown, GrantUnknown
        There is none of this id there.
    """
    owner = await work.tenants.get(holder.slug)
    return await work.grants(owner.id).get(grant_id(grant), key=holder.key)


def grant_of(grant: GrantSummary) -> Grant:
    """Return a grant as it is answered."""
    return Grant(
        id=str(grant.id),
        pattern=grant.pattern,
        key_id=None if grant.key_id is None else str(grant.key_id),
        created_at=grant.created_at,
    )


async def _made(work: UnitOfWork, holder: Holder, wanted: NewGrant) -> Created[Grant]:
    owner = await work.tenants.get(holder.slug)
    grants = work.grants(owner.id)
    pattern = checked_pattern(wanted.pattern)
    if not await grants.allow(pattern, key=holder.key):
        raise GrantTaken(pattern)
    (made,) = await grants.list(key=holder.key, below=False, pattern=pattern)
    return Created(grant_of(made), f"{holder.path}/grants/{made.id}")


async def _page(
    work: UnitOfWork, holder: Holder, *, below: bool, pattern: str | None, limit: int, cursor: str | None
) -> GrantPage:
    owner = await work.tenants.get(holder.slug)
    found = await work.grants(owner.id).list(
        key=holder.key,
        below=below,
        pattern=pattern,
        after=paging.place_of(cursor, tuple[str, UUID]),
        limit=limit + 1,
    )
    last = found[limit - 1] if len(found) > limit else None
    return GrantPage(
        items=tuple(grant_of(each) for each in found[:limit]),
        next_cursor=cursor_at((last.pattern, last.key_id or NO_KEY)) if last else None,
    )
