"""`/admin/v1/tenants/{slug}/policies`, and the same below keys and grants: what requests may ask of shared models."""

from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from litestar import Controller, Response, delete, get, put
from litestar.di import NamedDependency, Provide
from litestar.openapi.spec import Example
from litestar.params import Body, PathParameter, QueryParameter

from app.admin import etags, paging
from app.admin.contract import JsonBody
from app.admin.errors import InvalidFields, RuleUnknown
from app.admin.grants import GrantInPath, grant_in
from app.admin.handed import Admin, By
from app.admin.holders import OF_KEY, OF_TENANT, Holder, HolderInPath, named, scoped
from app.admin.policy_contract import NewPolicyRule, PolicyRule, PolicyRulePage, rule_of
from app.cursors import cursor_at
from db.grants import NO_KEY
from db.policies import Policies
from db.postgres import UnitOfWork
from domain.option_rules import FIELDS
from domain.tenants import PolicySummary
from domain.values import OptionRule, PolicyAction

FieldInPath = Annotated[
    str,
    PathParameter(
        description="What is decided on. `num_predict` is the output cap of every API.",
        schema_extra={"enum": sorted(FIELDS)},
    ),
]
Below = Annotated[
    bool,
    QueryParameter(
        name="below",
        description="Also the rules of all more specific levels: for a tenant those of its grants, its keys and their"
        " grants, for a key those of its grants.",
    ),
]


class Level(msgspec.Struct, frozen=True):
    """Where rules stand: at a tenant, a key, or a grant of either."""

    holder: Holder
    grant: str | None = None


LevelInPath = NamedDependency[Level]

_RULE: Final[Any] = Body(
    examples=[Example("an output cap", value={"action": "clamp", "max": 2048, "value": 512})]
)


def _of_holder(holder: HolderInPath) -> Level:
    return Level(holder)


def _of_grant(holder: HolderInPath, grant: GrantInPath) -> Level:
    return Level(holder, grant)


_HOLDER: Final = {"level": Provide(_of_holder, sync_to_thread=False)}
_GRANT: Final = {"level": Provide(_of_grant, sync_to_thread=False)}


class _PolicyController(Controller):
    """The rules of one level."""

    tags = ("policies",)

    @get(
        "/{field:str}",
        operation_id=named("get{scope}Policy"),
        summary="Get a rule of {whose}",
        opt={"etag": True},
    )
    async def get_policy(
        self, level: LevelInPath, field: FieldInPath, admin: Admin, caller: By
    ) -> Response[PolicyRule]:
        """Answer the rule that stands here."""
        async with admin.database.unit_of_work(caller.actor) as work:
            found = await (await _at(work, level)).get(field)
        if found is None:
            raise RuleUnknown
        return _answer(found)

    @put(
        "/{field:str}",
        operation_id=named("set{scope}Policy"),
        summary="Set a rule of {whose}",
        dto=JsonBody[NewPolicyRule],
        return_dto=None,
        opt={"refuses": (412,), "etag": True},
    )
    async def set_policy(
        self,
        *,
        level: LevelInPath,
        field: FieldInPath,
        data: Annotated[NewPolicyRule, _RULE],
        admin: Admin,
        caller: By,
        if_match: etags.IfMatch = None,
    ) -> Response[PolicyRule]:
        """Answer the rule, which holds for new requests within moments."""
        if field not in FIELDS:
            raise InvalidFields.parameter("field", f"It is one of {', '.join(sorted(FIELDS))}.")
        rule = OptionRule(PolicyAction(data.action), data.min, data.max, data.value)
        async with admin.database.unit_of_work(caller.actor) as work:
            # From here to the commit nobody else changes anything, so what was compared is what is changed.
            await work.revocations.lock()
            here = await _at(work, level)
            _check(if_match, await here.get(field))
            after = await here.set(field, rule)
        return _answer(after)

    @delete(
        "/{field:str}",
        operation_id=named("delete{scope}Policy"),
        summary="Take a rule of {whose} away, so that the next less specific one decides",
        opt={"refuses": (412,)},
    )
    async def delete_policy(
        self,
        *,
        level: LevelInPath,
        field: FieldInPath,
        admin: Admin,
        caller: By,
        if_match: etags.IfMatch = None,
    ) -> None:
        """Answer nothing."""
        async with admin.database.unit_of_work(caller.actor) as work:
            await work.revocations.lock()
            here = await _at(work, level)
            before = await here.get(field)
            if before is None:
                raise RuleUnknown
            _check(if_match, before)
            await here.clear(field)


class _HolderPolicyController(_PolicyController):
    """The rules of a tenant or a key."""

    @get(operation_id=named("list{scope}Policies"), summary="List the rules of {whose}")
    async def list_policies(
        self,
        *,
        level: LevelInPath,
        admin: Admin,
        caller: By,
        below: Below = False,
        limit: paging.Limit = paging.DEFAULT_ENTRIES,
        cursor: paging.Cursor = None,
    ) -> PolicyRulePage:
        """Answer a page; the cursor holds the last rule of the page before."""
        async with admin.database.unit_of_work(caller.actor) as work:
            return await (await _at(work, level)).page(below=below, limit=limit, cursor=cursor)


class _GrantPolicyController(_PolicyController):
    """The rules of a grant."""

    @get(operation_id=named("list{scope}Policies"), summary="List the rules of {whose}")
    async def list_policies(
        self,
        *,
        level: LevelInPath,
        admin: Admin,
        caller: By,
        limit: paging.Limit = paging.DEFAULT_ENTRIES,
        cursor: paging.Cursor = None,
    ) -> PolicyRulePage:
        """Answer a page; the cursor holds the last rule of the page before."""
        async with admin.database.unit_of_work(caller.actor) as work:
            return await (await _at(work, level)).page(below=False, limit=limit, cursor=cursor)


class TenantPolicyController(_HolderPolicyController):
    """The rules for all keys of a tenant."""

    path = "/tenants/{slug:str}/policies"
    dependencies = OF_TENANT | _HOLDER
    opt = scoped("Tenant", "a tenant")


class KeyPolicyController(_HolderPolicyController):
    """The rules for one key, before those of its tenant."""

    path = "/tenants/{slug:str}/keys/{key:str}/policies"
    dependencies = OF_KEY | _HOLDER
    opt = scoped("Key", "a key")


class TenantGrantPolicyController(_GrantPolicyController):
    """The rules for the models of one grant of a tenant."""

    path = "/tenants/{slug:str}/grants/{grant:str}/policies"
    dependencies = OF_TENANT | _GRANT
    opt = scoped("TenantGrant", "a tenant's grant")


class KeyGrantPolicyController(_GrantPolicyController):
    """The rules for the models of one grant of a key, before all others."""

    path = "/tenants/{slug:str}/keys/{key:str}/grants/{grant:str}/policies"
    dependencies = OF_KEY | _GRANT
    opt = scoped("KeyGrant", "a key's grant")


class _Rules(msgspec.Struct, frozen=True):
    """The rules at one level within a unit of work."""

    policies: Policies
    key: str | None
    pattern: str | None

    async def get(self, field: str) -> PolicySummary | None:
        """Return the rule for a field, None if there is none."""
        return await self.policies.get(field, key=self.key, pattern=self.pattern)

    async def set(self, field: str, rule: OptionRule) -> PolicySummary:
        """Set the rule for a field and return it."""
        await self.policies.set(field, rule, key=self.key, pattern=self.pattern)
        after = await self.get(field)
        if after is None:
            raise RuleUnknown
        return after

    async def clear(self, field: str) -> None:
        """Take the rule for a field away."""
        await self.policies.clear(field, key=self.key, pattern=self.pattern)

    async def page(self, *, below: bool, limit: int, cursor: str | None) -> PolicyRulePage:
        """Return a page of the rules, also of more specific levels if these are wanted."""
        found = await self.policies.list(
            key=self.key,
            pattern=self.pattern,
            below=below,
            after=paging.place_of(cursor, tuple[UUID, str, str]),
            limit=limit + 1,
        )
        last = found[limit - 1] if len(found) > limit else None
        return PolicyRulePage(
            items=tuple(rule_of(each) for each in found[:limit]),
            next_cursor=cursor_at((last.key_id or NO_KEY, last.pattern or "", last.field)) if last else None,
        )


async def _at(work: UnitOfWork, level: Level) -> _Rules:
    owner = await work.tenants.get(level.holder.slug)
    if level.grant is None:
        return _Rules(work.policies(owner.id), level.holder.key, None)
    grant = await grant_in(work, level.holder, level.grant)
    return _Rules(work.policies(owner.id), level.holder.key, grant.pattern)


def _check(if_match: str | None, before: PolicySummary | None) -> None:
    etags.check(if_match, None if before is None else etags.etag_of(rule_of(before)))


def _answer(found: PolicySummary) -> Response[PolicyRule]:
    rule = rule_of(found)
    return Response(rule, headers={"etag": etags.etag_of(rule)})
