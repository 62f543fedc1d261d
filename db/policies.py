"""Option policies: what requests may ask of shared models, set for tenants, keys, and the grants of both."""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, Row, Text, cast, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncSession

from db.audit import AuditLog
from db.grants import NO_KEY, audited, holder_of_grants
from db.revocations import lock_revocations
from db.tables import KeyLimitsTable, ModelGrantTable, TenantLimitsTable
from domain.option_rules import check_rule, stored_policy
from domain.tenants import GrantUnknown, PolicySummary, checked_pattern
from domain.values import KeyId, OptionRule, TenantId

_LIST: Final = text("""
    SELECT level.key_id, level.grant_id, level.pattern, rule.key AS field, rule.value::text AS rule
    FROM (
        SELECT CAST(NULL AS uuid) AS key_id, CAST(NULL AS uuid) AS grant_id, CAST(NULL AS text) AS pattern,
               option_policy
        FROM tenant_limits WHERE tenant_id = :tenant_id
        UNION ALL
        SELECT NULL, id, pattern, option_policy FROM model_grants WHERE tenant_id = :tenant_id
        UNION ALL
        SELECT k.id, NULL, NULL, l.option_policy
        FROM api_keys AS k JOIN key_limits AS l ON l.key_id = k.id WHERE k.tenant_id = :tenant_id
        UNION ALL
        SELECT k.id, g.id, g.pattern, g.option_policy
        FROM api_keys AS k JOIN model_grants AS g ON g.key_id = k.id WHERE k.tenant_id = :tenant_id
    ) AS level, jsonb_each(level.option_policy) AS rule
    WHERE (CAST(:key_id AS uuid) IS NULL OR level.key_id = :key_id)
      AND (CAST(:below AS boolean) OR (level.key_id IS NOT DISTINCT FROM :key_id
                      AND level.pattern IS NOT DISTINCT FROM CAST(:pattern AS text)))
      AND (CAST(:after_field AS text) IS NULL
           OR (COALESCE(level.key_id, CAST(:no_key AS uuid)), COALESCE(level.pattern, ''), rule.key)
              > (CAST(:after_key AS uuid), CAST(:after_pattern AS text), CAST(:after_field AS text)))
    ORDER BY COALESCE(level.key_id, CAST(:no_key AS uuid)), COALESCE(level.pattern, ''), field
    LIMIT CAST(:limit AS integer)
""")

_Limits = type[TenantLimitsTable | KeyLimitsTable]
_Holder = dict[str, TenantId | KeyId]


class Policies:
    """The option policies of one tenant and of its keys, rule by rule.

    A rule is told apart by its field, by `key` (the id or prefix of the key it is for; None for the whole
    tenant) and by `pattern` (the grant it is for, which must exist; None for every model).
    """

    def __init__(self, session: AsyncSession, tenant_id: TenantId, audit: AuditLog) -> None:
        self._session = session
        self._tenant_id = tenant_id
        self._audit = audit

    async def set(
        self, field: str, rule: OptionRule, *, key: str | None = None, pattern: str | None = None
    ) -> bool:
        """Set one rule; return False if it stood there before.

        Raises
        ------
        PolicyInvalid, PatternInvalid, KeyUnknown, GrantUnknown
            Nothing was changed.
        """
        check_rule(field, rule)
        await lock_revocations(self._session)
        level = await self._level(key, pattern)
        before = await level.read(self._session)
        plain = msgspec.to_builtins(rule)
        if before.get(field) == plain:
            return False
        await level.merge(self._session, {field: plain})
        await self._note("policy.set", level, field, before.get(field), plain)
        return True

    async def clear(self, field: str, *, key: str | None = None, pattern: str | None = None) -> bool:
        """Take one rule away, so that the next less specific level decides; return False if there was none.

        Raises
        ------
        PatternInvalid, KeyUnknown, GrantUnknown
            Nothing was changed.
        """
        await lock_revocations(self._session)
        level = await self._level(key, pattern)
        before = await level.read(self._session)
        if field not in before:
            return False
        await level.remove(self._session, field)
        await self._note("policy.clear", level, field, before[field], None)
        return True

    async def get(
        self, field: str, *, key: str | None = None, pattern: str | None = None
    ) -> PolicySummary | None:
        """Return the rule that stands at one level for a field, None if there is none.

        Raises
        ------
        PatternInvalid, KeyUnknown, GrantUnknown
            There is no such level.
        """
        level = await self._level(key, pattern)
        await level.read(self._session)
        found = await self.list(key=key, pattern=level.pattern, below=False)
        return next((each for each in found if each.field == field), None)

    async def list(
        self,
        *,
        key: str | None = None,
        pattern: str | None = None,
        below: bool = True,
        after: tuple[UUID, str, str] | None = None,
        limit: int | None = None,
    ) -> tuple[PolicySummary, ...]:
        """Return the rules of one key and its grants, or of the tenant and all its keys: all, or a page of `limit`.

        Less specific levels come first; within a level by field.

        Parameters
        ----------
        key
            The id or prefix of the key; None for the tenant.
        pattern
            The grant whose rules alone are wanted, as it is stored; `below` must be False then.
        below
            Whether rules of more specific levels count as well.
        after
            Key (`NO_KEY` for the tenant itself), pattern (empty for none) and field of the rule to go on after.
        limit
            How many at most.

        Raises
        ------
        KeyUnknown
            The tenant has no such key.
        """
        holder = await holder_of_grants(self._session, self._tenant_id, key)
        after_key, after_pattern, after_field = after or (None, None, None)
        found = await self._session.execute(
            _LIST,
            {
                "tenant_id": self._tenant_id,
                "key_id": holder.get("key_id"),
                "pattern": pattern,
                "below": below,
                "no_key": NO_KEY,
                "after_key": after_key,
                "after_pattern": after_pattern,
                "after_field": after_field,
                "limit": limit,
            },
        )
        return tuple(_summary(row) for row in found)

    async def _level(self, key: str | None, pattern: str | None) -> "_Level":
        holder = await holder_of_grants(self._session, self._tenant_id, key)
        return _Level(holder, None if pattern is None else checked_pattern(pattern))

    async def _note(self, action: str, level: "_Level", field: str, before: Any, after: Any) -> None:
        def event(rule: Any) -> dict[str, Any] | None:
            return None if rule is None else {"field": field, "pattern": level.pattern, "rule": rule}

        await self._audit.append(action, audited(level.holder), before=event(before), after=event(after))


class _Level:
    """The one row whose column `option_policy` holds a level. Writes are single statements on that column."""

    def __init__(self, holder: _Holder, pattern: str | None) -> None:
        self.holder = holder
        self.pattern = pattern
        self._limits: _Limits = KeyLimitsTable if "key_id" in holder else TenantLimitsTable

    async def read(self, session: AsyncSession) -> dict[str, Any]:
        """Return what is stored; raises GrantUnknown if there is no such grant."""
        table = self._limits if self.pattern is None else ModelGrantTable
        found = (await session.execute(select(table.option_policy).filter_by(**self._where()))).first()
        if found is None and self.pattern is not None:
            raise GrantUnknown(self.pattern)
        return {} if found is None else dict(found[0])

    async def merge(self, session: AsyncSession, rules: Mapping[str, Any]) -> None:
        """Add rules, in place of those that stand there for the same fields."""
        if self.pattern is not None:
            merged = ModelGrantTable.option_policy.op("||")(cast(rules, JSONB))
            await self._update(session, ModelGrantTable, merged)
            return
        fresh = insert(self._limits).values(option_policy=rules, **self.holder)
        merged = self._limits.option_policy.op("||")(fresh.excluded.option_policy)
        await session.execute(
            fresh.on_conflict_do_update(
                index_elements=list(self.holder), set_={"option_policy": merged, "updated_at": func.now()}
            )
        )

    async def remove(self, session: AsyncSession, field: str) -> None:
        """Take the rule for one field away."""
        table = self._limits if self.pattern is None else ModelGrantTable
        await self._update(session, table, table.option_policy.op("-")(literal(field, Text)))

    async def _update(
        self, session: AsyncSession, table: _Limits | type[ModelGrantTable], policy: ColumnElement[Any]
    ) -> None:
        await session.execute(
            update(table)
            .filter_by(**self._where())
            .values(option_policy=policy)
            .execution_options(synchronize_session=False)
        )

    def _where(self) -> dict[str, Any]:
        return {**self.holder, **({} if self.pattern is None else {"pattern": self.pattern})}


def _summary(row: Row[Any]) -> PolicySummary:
    policy, damaged = stored_policy({row.field: msgspec.json.decode(row.rule)})
    return PolicySummary(
        row.field,
        None if damaged else policy[row.field],
        None if row.key_id is None else KeyId(row.key_id),
        row.pattern,
        row.grant_id,
    )
