"""How a migrated database differs from `db/tables.py` and from the triggers the product relies on.

Alembic compares tables, columns, indexes and keys. It looks at neither CHECK constraints, nor the labels of
enums, nor triggers; those are compared here by name.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import CheckConstraint, Connection, Enum

from db.tables import Base

FUNCTIONS: Final = frozenset(
    {
        "drop_usage_partition",
        "keep_newest_revocation",
        "lock_revocations",
        "make_usage_partition",
        "mark_touched_hours",
        "notify_backend_states",
        "notify_key_revoked",
        "refuse_audit_change",
        "refuse_truncate",
        "refuse_usage_rewrite",
    }
)
TRIGGERS: Final = frozenset(
    {
        "api_keys.lock_revocations",
        "api_keys.notify_on_delete",
        "api_keys.notify_on_update",
        "api_keys.refuse_truncate",
        "audit_events.refuse_change",
        "backend_states.notify",
        "key_limits.lock_revocations",
        "key_limits.notify_on_delete",
        "key_limits.notify_on_insert",
        "key_limits.notify_on_update",
        "key_limits.refuse_truncate",
        "model_grants.lock_revocations",
        "model_grants.notify_on_delete",
        "model_grants.notify_on_insert",
        "model_grants.notify_on_update",
        "model_grants.refuse_truncate",
        "revocations.keep_newest",
        "revocations.refuse_change",
        "revocations.refuse_truncate",
        "tenant_limits.lock_revocations",
        "tenant_limits.notify_on_delete",
        "tenant_limits.notify_on_insert",
        "tenant_limits.notify_on_update",
        "tenant_limits.refuse_truncate",
        "tenants.lock_revocations",
        "tenants.notify_on_delete",
        "tenants.notify_on_update",
        "tenants.refuse_truncate",
        "usage_records.mark_hours_on_delete",
        "usage_records.mark_hours_on_insert",
        "usage_records.mark_hours_on_update",
        "usage_records.refuse_rewrite",
    }
)

_OURS: Final = "(SELECT oid FROM pg_namespace WHERE nspname = current_schema())"
_CHECKS: Final = f"""
    SELECT t.relname || '.' || c.conname FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
    WHERE c.contype = 'c' AND NOT t.relispartition AND t.relnamespace = {_OURS}
"""  # noqa: S608 - a fragment of this module  # nosec B608
_LABELS: Final = f"""
    SELECT t.typname || '.' || e.enumlabel FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid
    WHERE t.typnamespace = {_OURS}
"""  # noqa: S608 # nosec B608
_TRIGGERS_FOUND: Final = f"""
    SELECT t.relname || '.' || g.tgname FROM pg_trigger g JOIN pg_class t ON t.oid = g.tgrelid
    WHERE NOT g.tgisinternal AND g.tgenabled IN ('O', 'A') AND NOT t.relispartition
      AND t.relnamespace = {_OURS}
"""  # noqa: S608 # nosec B608
_FUNCTIONS_FOUND: Final = f"""
    SELECT p.proname FROM pg_proc p WHERE p.pronamespace = {_OURS}
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
"""  # noqa: S608 # nosec B608


def find_drift(
    connection: Connection, include_name: Callable[..., bool], version_table: str
) -> tuple[str, ...]:
    """Return one phrase per difference, none when the schema is as this release wants it."""
    context = MigrationContext.configure(
        connection,
        opts={
            "version_table": version_table,
            "compare_type": True,
            "compare_server_default": True,
            "include_name": include_name,
        },
    )
    labels = {f"{enum.name}.{label}" for enum in _enums() for label in enum.enums}
    return (
        *(_told(difference) for difference in compare_metadata(context, Base.metadata)),
        *_apart("check", _declared_checks(), _names(connection, _CHECKS)),
        *_apart("enum label", labels, _names(connection, _LABELS)),
        *_apart("trigger", TRIGGERS, _names(connection, _TRIGGERS_FOUND)),
        *_apart("function", FUNCTIONS, _names(connection, _FUNCTIONS_FOUND)),
    )


def _told(difference: Any) -> str:
    # Changes of one column come as a list of steps, everything else as one tuple whose first word says what.
    step = difference[0] if isinstance(difference, list) else difference
    return " ".join(str(part) for part in step)


def _enums() -> Iterable[Enum]:
    for table in Base.metadata.tables.values():
        for column in table.columns:
            if isinstance(column.type, Enum):
                yield column.type


def _declared_checks() -> set[str]:
    return {
        f"{table.name}.{constraint.name}"
        for table in Base.metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, CheckConstraint)
    }


def _names(connection: Connection, query: str) -> set[str]:
    return set(connection.exec_driver_sql(query).scalars())


def _apart(kind: str, wanted: Iterable[str], found: set[str]) -> Iterable[str]:
    missing = set(wanted) - found
    surplus = found - set(wanted)
    yield from (f"{kind} {name} is missing" for name in sorted(missing))
    yield from (f"{kind} {name} is not ours" for name in sorted(surplus))
