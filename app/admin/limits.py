"""`/admin/v1/tenants/{slug}/limits`, and the same below a key: how much may be used."""

from typing import Annotated, Any, Final
from uuid import UUID

from litestar import Controller, Response, delete, get, patch
from litestar.openapi.spec import Example
from litestar.params import Body
from msgspec import UNSET, Meta, UnsetType

from app.admin import etags, paging
from app.admin.contract import Answered, Asked, JsonBody
from app.admin.handed import Admin, By
from app.admin.holders import OF_KEY, OF_TENANT, Holder, HolderInPath, named, scoped
from app.cursors import cursor_at
from db.postgres import UnitOfWork
from domain import values as domain
from domain.limits import LimitKind
from domain.tenants import LARGEST_LIMIT

Rate = Annotated[
    int,
    Meta(ge=1, le=LARGEST_LIMIT[LimitKind.REQUESTS_PER_MINUTE], examples=[600]),
]
Quota = Annotated[
    int,
    Meta(ge=1, le=LARGEST_LIMIT[LimitKind.TOKENS_PER_DAY], examples=[2_000_000]),
]


class Limits(Answered):
    """Ceilings; null sets none."""

    requests_per_minute: Annotated[
        Rate | None, Meta(description="Refilled evenly; a whole minute's worth may come at once.")
    ]
    tokens_per_minute: Annotated[
        Rate | None, Meta(description="Tokens of prompts and answers together, refilled evenly.")
    ]
    concurrency: Annotated[Rate | None, Meta(description="Requests that may run at the same time.")]
    tokens_per_day: Annotated[
        Quota | None, Meta(description="From midnight to midnight in the tenant's time zone.")
    ]
    tokens_per_month: Annotated[
        Quota | None, Meta(description="From the first of a month to the next in the tenant's time zone.")
    ]


class LimitLevel(Answered):
    """What a tenant or a key is limited to."""

    own: Annotated[Limits, Meta(description="What was set here.")]
    effective: Annotated[
        Limits,
        Meta(
            description="The most that is possible: for a key the smaller of its own and its tenant's, which all"
            " keys of the tenant share."
        ),
    ]


class LimitChange(Asked):
    """Which limits to set; null takes one away, what is left out stays."""

    requests_per_minute: Rate | UnsetType | None = UNSET
    tokens_per_minute: Rate | UnsetType | None = UNSET
    concurrency: Rate | UnsetType | None = UNSET
    tokens_per_day: Quota | UnsetType | None = UNSET
    tokens_per_month: Quota | UnsetType | None = UNSET


class KeyLimits(Answered):
    """The limits that a key has of its own."""

    key_id: Annotated[str, Meta(description="The key's id.", extra_json_schema={"format": "uuid"})]
    own: Limits


class KeyLimitsPage(Answered):
    """Keys with limits of their own, by their ids."""

    items: tuple[KeyLimits, ...]
    next_cursor: paging.NextCursor


_CHANGE: Final[Any] = Body(
    examples=[Example("a budget", value={"requestsPerMinute": 600, "tokensPerDay": 2_000_000})]
)


class _LimitController(Controller):
    """The limits of one holder."""

    tags = ("limits",)

    @get(operation_id=named("get{scope}Limits"), summary="Get the limits of {whose}", opt={"etag": True})
    async def get_limits(self, holder: HolderInPath, admin: Admin, caller: By) -> Response[LimitLevel]:
        """Answer what was set and what it comes to."""
        async with admin.database.unit_of_work(caller.actor) as work:
            return _answer(await _level(work, holder))

    @patch(
        operation_id=named("change{scope}Limits"),
        summary="Set some limits of {whose}, or take them away",
        dto=JsonBody[LimitChange],
        return_dto=None,
        opt={"refuses": (412,), "etag": True},
    )
    async def change_limits(
        self,
        holder: HolderInPath,
        data: Annotated[LimitChange, _CHANGE],
        admin: Admin,
        caller: By,
        if_match: etags.IfMatch = None,
    ) -> Response[LimitLevel]:
        """Answer the limits as they are now."""
        changes = {kind: value for kind in LimitKind if (value := getattr(data, kind.value)) is not UNSET}
        async with admin.database.unit_of_work(caller.actor) as work:
            # From here to the commit nobody else changes anything, so what was compared is what is changed.
            await work.revocations.lock()
            etags.check(if_match, etags.etag_of(await _level(work, holder)))
            owner = await work.tenants.get(holder.slug)
            await work.limits(owner.id).set(changes, key=holder.key)
            after = await _level(work, holder)
        return _answer(after)

    @delete(
        operation_id=named("clear{scope}Limits"),
        summary="Take all limits of {whose} away",
        opt={"refuses": (412,)},
    )
    async def clear_limits(
        self, holder: HolderInPath, admin: Admin, caller: By, if_match: etags.IfMatch = None
    ) -> None:
        """Answer nothing. Repeating it changes nothing."""
        async with admin.database.unit_of_work(caller.actor) as work:
            await work.revocations.lock()
            etags.check(if_match, etags.etag_of(await _level(work, holder)))
            owner = await work.tenants.get(holder.slug)
            await work.limits(owner.id).clear(key=holder.key)


class TenantLimitController(_LimitController):
    """What all keys of a tenant share, and which of them have limits of their own."""

    path = "/tenants/{slug:str}/limits"
    dependencies = OF_TENANT
    opt = scoped("Tenant", "a tenant")

    @get(
        "/keys",
        operation_id="listKeyLimits",
        summary="List the limits of those keys of a tenant that have any of their own",
    )
    async def list_key_limits(
        self,
        holder: HolderInPath,
        admin: Admin,
        caller: By,
        limit: paging.Limit = paging.DEFAULT_ENTRIES,
        cursor: paging.Cursor = None,
    ) -> KeyLimitsPage:
        """Answer a page; the cursor holds the last key of the page before."""
        after = paging.place_of(cursor, UUID)
        async with admin.database.unit_of_work(caller.actor) as work:
            owner = await work.tenants.get(holder.slug)
            found = await work.limits(owner.id).of_keys(after=after, limit=limit + 1)
        items = tuple(KeyLimits(str(each.key_id), _limits(each.limits)) for each in found[:limit])
        return KeyLimitsPage(
            items=items, next_cursor=cursor_at(items[-1].key_id) if len(found) > limit else None
        )


class KeyLimitController(_LimitController):
    """What one key is limited to, within its tenant's limits."""

    path = "/tenants/{slug:str}/keys/{key:str}/limits"
    dependencies = OF_KEY
    opt = scoped("Key", "a key")


async def _level(work: UnitOfWork, holder: Holder) -> LimitLevel:
    owner = await work.tenants.get(holder.slug)
    limits = work.limits(owner.id)
    own = _limits(await limits.get(key=holder.key))
    if holder.key is None:
        return LimitLevel(own=own, effective=own)
    return LimitLevel(own=own, effective=_tighter(own, _limits(await limits.get())))


def _limits(limits: domain.Limits) -> Limits:
    return Limits(**{kind.value: getattr(limits, kind.value) for kind in LimitKind})


def _tighter(one: Limits, other: Limits) -> Limits:
    def smaller(kind: LimitKind) -> int | None:
        values = getattr(one, kind.value), getattr(other, kind.value)
        return min((value for value in values if value is not None), default=None)

    return Limits(**{kind.value: smaller(kind) for kind in LimitKind})


def _answer(level: LimitLevel) -> Response[LimitLevel]:
    return Response(level, headers={"etag": etags.etag_of(level)})
