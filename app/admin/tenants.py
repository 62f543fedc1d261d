"""`/admin/v1/tenants`: who may have keys."""

from typing import Annotated, Any, Final, Literal

from litestar import Controller, Response, get, patch, post
from litestar.openapi.spec import Example
from litestar.params import Body, PathParameter
from msgspec import UNSET, Meta, UnsetType

from app.admin import etags, paging
from app.admin.contract import Answered, Asked, JsonBody, Moment, Name
from app.admin.handed import Admin, By
from app.admin.idempotency import Created, IdempotencyKey, Once
from app.admin.wording import SLUG_PATTERN
from app.cursors import cursor_at
from db.postgres import UnitOfWork
from domain import tenants as domain
from domain.tenants import TenantStatus

Slug = Annotated[
    str,
    Meta(
        pattern=SLUG_PATTERN,
        description="Short name in URLs, logs and reports; stays.",
        examples=["research"],
    ),
]
SlugInPath = Annotated[str, PathParameter(description="The tenant's slug.")]
TimeZone = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        description="IANA time zone that decides when its days and months begin.",
        examples=["Europe/Berlin"],
    ),
]
Status = Annotated[
    Literal["active", "suspended"],
    Meta(description="The keys of a suspended tenant do not work, and its running requests are cut."),
]
AllModels = Annotated[
    bool, Meta(description="It may use every model, also those that come later; otherwise those granted.")
]


class Tenant(Answered):
    """An owner of keys, grants, limits and usage."""

    id: Annotated[str, Meta(description="How the audit log names it.", extra_json_schema={"format": "uuid"})]
    slug: Slug
    name: Name
    status: Status
    time_zone: TimeZone
    allow_all_models: AllModels
    created_at: Moment


class TenantPage(Answered):
    """Tenants by slug."""

    items: tuple[Tenant, ...]
    next_cursor: paging.NextCursor


class NewTenant(Asked):
    """What to create."""

    slug: Slug
    name: Annotated[Name, Meta(description="Its name for people. Default: the slug.")] | UnsetType = UNSET
    time_zone: TimeZone = "UTC"
    allow_all_models: AllModels = False


class TenantChange(Asked):
    """What to change; what is left out stays."""

    name: Name | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    time_zone: TimeZone | UnsetType = UNSET
    allow_all_models: AllModels | UnsetType = UNSET


_NEW: Final[Any] = Body(
    examples=[
        Example("research", value={"slug": "research", "name": "Research lab", "timeZone": "Europe/Berlin"})
    ]
)
_CHANGE: Final[Any] = Body(examples=[Example("suspend", value={"status": "suspended"})])


class TenantController(Controller):
    """The tenants."""

    path = "/tenants"
    tags = ("tenants",)

    @get(operation_id="listTenants", summary="List tenants by slug")
    async def list_tenants(
        self,
        admin: Admin,
        caller: By,
        limit: paging.Limit = paging.DEFAULT_ENTRIES,
        cursor: paging.Cursor = None,
    ) -> TenantPage:
        """Answer a page; the cursor holds the last slug of the page before."""
        after = paging.place_of(cursor, str)
        async with admin.database.unit_of_work(caller.actor) as work:
            found = await work.tenants.list(after=after, limit=limit + 1)
        items = tuple(tenant_of(each) for each in found[:limit])
        return TenantPage(items=items, next_cursor=cursor_at(items[-1].slug) if len(found) > limit else None)

    @post(
        operation_id="createTenant",
        summary="Create a tenant",
        dto=JsonBody[NewTenant],
        return_dto=None,
        opt={"refuses": (409, 422), "etag": True},
    )
    async def create_tenant(
        self,
        data: Annotated[NewTenant, _NEW],
        admin: Admin,
        caller: By,
        idempotency_key: IdempotencyKey = None,
    ) -> Response[Tenant]:
        """Answer the new tenant, which has no keys and no limits yet."""
        once = Once(caller, idempotency_key, "/admin/v1/tenants", data)
        async with admin.database.unit_of_work(caller.actor) as work:
            return await once.create(work, lambda: _made(work, data))

    @get("/{slug:str}", operation_id="getTenant", summary="Get a tenant", opt={"etag": True})
    async def get_tenant(self, slug: SlugInPath, admin: Admin, caller: By) -> Response[Tenant]:
        """Answer one tenant."""
        async with admin.database.unit_of_work(caller.actor) as work:
            return _answer(tenant_of(await work.tenants.get(slug)))

    @patch(
        "/{slug:str}",
        operation_id="changeTenant",
        summary="Change a tenant, suspend it or let it back in",
        dto=JsonBody[TenantChange],
        return_dto=None,
        opt={"refuses": (412,), "etag": True},
    )
    async def change_tenant(
        self,
        slug: SlugInPath,
        data: Annotated[TenantChange, _CHANGE],
        admin: Admin,
        caller: By,
        if_match: etags.IfMatch = None,
    ) -> Response[Tenant]:
        """Answer what the tenant is like now."""
        async with admin.database.unit_of_work(caller.actor) as work:
            # From here to the commit nobody else changes anything, so what was compared is what is changed.
            await work.revocations.lock()
            before = await work.tenants.get(slug)
            etags.check(if_match, etags.etag_of(tenant_of(before)))
            after = await _changed(work, slug, data)
        return _answer(tenant_of(after))


def tenant_of(tenant: domain.Tenant) -> Tenant:
    """Return a tenant as it is answered."""
    return Tenant(
        id=str(tenant.id),
        slug=tenant.slug,
        name=tenant.name,
        status=tenant.status.value,
        time_zone=tenant.time_zone,
        allow_all_models=tenant.allow_all_models,
        created_at=tenant.created_at,
    )


async def _changed(work: UnitOfWork, slug: str, change: TenantChange) -> domain.Tenant:
    values = domain.TenantChange(change.name, change.time_zone, change.allow_all_models)
    after = await work.tenants.change(slug, values)
    return (
        after if change.status is UNSET else await work.tenants.set_status(slug, TenantStatus(change.status))
    )


async def _made(work: UnitOfWork, wanted: NewTenant) -> Created[Tenant]:
    made = await work.tenants.create(
        wanted.slug,
        wanted.slug if wanted.name is UNSET else wanted.name,
        time_zone=wanted.time_zone,
        allow_all_models=wanted.allow_all_models,
    )
    return Created(tenant_of(made), f"/admin/v1/tenants/{made.slug}")


def _answer(tenant: Tenant) -> Response[Tenant]:
    return Response(tenant, headers={"etag": etags.etag_of(tenant)})
