"""The whole schema: tenants, keys, limits, grants, usage, audit, and revocations that no write can bypass."""

from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

FUNCTIONS = Path(__file__).parents[1] / "sql" / revision

# What a cached key carries: writing one of these columns revokes what is cached.
WATCHED = {
    "tenants": "id, slug, status, time_zone",
    "api_keys": "id, tenant_id, role, status, expires_at, allowed_networks, path_allowed",
    "tenant_limits": "",
    "key_limits": "",
    "model_grants": "",
}
# What it does not carry, as arguments of the trigger; every other column counts.
IGNORED = {
    "tenants": ("name", "created_at", "updated_at"),
    "api_keys": (
        *("name", "prefix", "digest", "pepper_id", "last_used_at", "rotated_from"),
        *("created_at", "updated_at"),
    ),
    "tenant_limits": ("created_at", "updated_at"),
    "key_limits": ("created_at", "updated_at"),
    "model_grants": ("created_at",),
}
IMAGES = {
    "insert": "NEW TABLE AS new_rows",
    "update": "OLD TABLE AS old_rows NEW TABLE AS new_rows",
    "delete": "OLD TABLE AS old_rows",
}


def upgrade() -> None:
    """Apply; everything in one transaction, one statement per op.execute."""
    _create_tenants()
    _create_keys()
    _create_limits("tenant_limits", "tenant_id", "tenants")
    _create_limits("key_limits", "key_id", "api_keys")
    _create_grants()
    _create_usage()
    _create_audit()
    _create_revocations()
    _watch_revocations()


def downgrade() -> None:
    """Undo; the data goes with the tables."""
    for table in ("model_grants", "key_limits", "tenant_limits", "api_keys", "tenants"):
        op.drop_table(table)
    for table in ("usage_records", "audit_events", "revocations"):
        op.drop_table(table)
    for signature in (
        "notify_key_revoked()",
        "lock_revocations()",
        "keep_newest_revocation()",
        "refuse_truncate()",
        "refuse_audit_change()",
        "refuse_usage_rewrite()",
        "make_usage_partition(date)",
    ):
        op.execute(f"DROP FUNCTION {signature}")
    for enum in ("tenant_status", "key_status", "usage_outcome"):
        op.execute(f"DROP TYPE {enum}")


def _create_function(name: str) -> None:
    op.execute((FUNCTIONS / f"{name}.sql").read_text())


def _id() -> sa.Column[object]:
    return sa.Column(
        "id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), primary_key=True, nullable=False
    )


def _now(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _policy() -> sa.Column[object]:
    return sa.Column(
        "option_policy", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False
    )


def _policy_check() -> sa.CheckConstraint:
    return sa.CheckConstraint("jsonb_typeof(option_policy) = 'object'", "option_policy_object")


def _owned_by(column: str, table: str, *, primary_key: bool = False) -> sa.Column[object]:
    return sa.Column(
        column,
        sa.Uuid(),
        sa.ForeignKey(f"{table}.id", ondelete="CASCADE"),
        primary_key=primary_key,
        nullable=not primary_key,
    )


def _create_tenants() -> None:
    op.create_table(
        "tenants",
        _id(),
        _text("slug"),
        _text("name"),
        sa.Column(
            "status",
            sa.Enum("active", "suspended", name="tenant_status"),
            server_default="active",
            nullable=False,
        ),
        sa.Column("time_zone", sa.Text(), server_default="UTC", nullable=False),
        _now("created_at"),
        _now("updated_at"),
        sa.CheckConstraint("slug ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'", "slug_format"),
        sa.CheckConstraint("name <> ''", "name_present"),
        sa.CheckConstraint("time_zone <> ''", "time_zone_present"),
        sa.UniqueConstraint("slug"),
    )


def _create_keys() -> None:
    op.create_table(
        "api_keys",
        _id(),
        _owned_by("tenant_id", "tenants"),
        _text("name"),
        _text("role"),
        _text("prefix"),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        _text("pepper_id"),
        sa.Column(
            "status", sa.Enum("active", "revoked", name="key_status"), server_default="active", nullable=False
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column(
            "allowed_networks",
            postgresql.ARRAY(postgresql.CIDR()),
            server_default=sa.text("'{}'::cidr[]"),
            nullable=False,
        ),
        sa.Column("path_allowed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True)),
        sa.Column("rotated_from", sa.Uuid(), sa.ForeignKey("api_keys.id", ondelete="SET NULL")),
        _now("created_at"),
        _now("updated_at"),
        sa.CheckConstraint("role IN ('inference', 'admin')", "role_known"),
        sa.CheckConstraint("(role = 'admin') = (tenant_id IS NULL)", "tenant_matches_role"),
        sa.CheckConstraint("name <> ''", "name_present"),
        sa.CheckConstraint("prefix ~ '^nnga?_[0-9A-Za-z]{8}$'", "prefix_format"),
        sa.CheckConstraint("octet_length(digest) = 32", "digest_length"),
        sa.CheckConstraint("pepper_id <> ''", "pepper_id_present"),
        sa.UniqueConstraint("prefix"),
        sa.UniqueConstraint("digest"),
    )
    op.create_index(op.f("ix_api_keys_tenant_id"), "api_keys", ["tenant_id"])
    op.create_index(op.f("ix_api_keys_rotated_from"), "api_keys", ["rotated_from"])


def _create_limits(name: str, owner_column: str, owner_table: str) -> None:
    integers = {
        "rpm": sa.Integer(),
        "tpm": sa.Integer(),
        "concurrency": sa.Integer(),
        "tokens_per_day": sa.BigInteger(),
        "tokens_per_month": sa.BigInteger(),
    }
    inherits = owner_table == "api_keys"  # a key's NULL inherits; a tenant has nobody to inherit from
    op.create_table(
        name,
        _owned_by(owner_column, owner_table, primary_key=True),
        *(sa.Column(column, kind) for column, kind in integers.items()),
        sa.Column(
            "allow_all_models",
            sa.Boolean(),
            server_default=None if inherits else sa.text("false"),
            nullable=inherits,
        ),
        _policy(),
        _now("created_at"),
        _now("updated_at"),
        *(sa.CheckConstraint(f"{column} > 0", f"{column}_positive") for column in integers),
        _policy_check(),
    )


def _create_grants() -> None:
    op.create_table(
        "model_grants",
        _id(),
        _owned_by("tenant_id", "tenants"),
        _owned_by("key_id", "api_keys"),
        _text("pattern"),
        _policy(),
        _now("created_at"),
        sa.CheckConstraint("num_nonnulls(tenant_id, key_id) = 1", "one_holder"),
        sa.CheckConstraint("pattern <> ''", "pattern_present"),
        _policy_check(),
        sa.UniqueConstraint("tenant_id", "pattern"),
        sa.UniqueConstraint("key_id", "pattern"),
    )


def _create_usage() -> None:
    outcomes = ("completed", "client_closed", "rejected_upstream", "upstream_failed", "upstream_truncated")
    spans = ("queue_us", "load_us", "prompt_us", "eval_us", "first_token_us", "total_us")
    op.create_table(
        "usage_records",
        sa.Column("period", sa.Date(), primary_key=True),
        sa.Column("request_id", sa.Uuid(), primary_key=True),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        *(_text(name) for name in ("model", "model_digest", "api_family", "route")),
        sa.Column("backend", sa.Text()),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column("attempted_backends", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("outcome", sa.Enum(*outcomes, "cut", "lost", name="usage_outcome"), nullable=False),
        sa.Column("tokens_in", sa.BigInteger(), nullable=False),
        sa.Column("tokens_out", sa.BigInteger(), nullable=False),
        sa.Column("tokens_cached", sa.BigInteger()),
        sa.Column("estimated", sa.Boolean(), nullable=False),
        *(sa.Column(name, sa.BigInteger()) for name in spans),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("client_request_id", sa.Text()),
        sa.CheckConstraint("EXTRACT(day FROM period) = 1", "period_is_a_month"),
        sa.CheckConstraint("attempts >= 0", "attempts_not_negative"),
        sa.CheckConstraint(
            "tokens_in >= 0 AND tokens_out >= 0 AND tokens_cached >= 0", "tokens_not_negative"
        ),
        postgresql_partition_by="RANGE (period)",
    )
    op.create_index("ix_usage_records_tenant_id_started_at", "usage_records", ["tenant_id", "started_at"])
    _create_function("refuse_usage_rewrite")
    op.execute("""
        CREATE TRIGGER refuse_rewrite BEFORE UPDATE ON usage_records FOR EACH ROW
        WHEN (OLD.outcome <> 'lost' OR NEW.outcome = 'lost'
              OR (OLD.period, OLD.request_id) <> (NEW.period, NEW.request_id))
        EXECUTE FUNCTION refuse_usage_rewrite()
    """)
    _create_function("make_usage_partition")
    op.execute("""
        SELECT make_usage_partition(((now() AT TIME ZONE 'UTC') + make_interval(months => ahead))::date)
        FROM generate_series(0, 2) AS ahead
    """)


def _create_audit() -> None:
    op.create_table(
        "audit_events",
        _id(),
        _now("at"),
        _text("actor"),
        _text("action"),
        _text("subject"),
        sa.Column("before", postgresql.JSONB()),
        sa.Column("after", postgresql.JSONB()),
        sa.Column("request_id", sa.Uuid()),
        sa.Column("address", postgresql.INET()),
        sa.CheckConstraint("actor <> ''", "actor_present"),
        sa.CheckConstraint("action <> ''", "action_present"),
    )
    op.create_index(op.f("ix_audit_events_at"), "audit_events", ["at"])
    op.create_index("ix_audit_events_subject_at", "audit_events", ["subject", "at"])
    _create_function("refuse_audit_change")
    op.execute(
        "CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events "
        "EXECUTE FUNCTION refuse_audit_change()"
    )


def _create_revocations() -> None:
    op.create_table(
        "revocations",
        sa.Column("seq", sa.BigInteger(), primary_key=True, autoincrement=False),
        _text("scope"),
        sa.Column("id", sa.Uuid(), nullable=False),
        _now("at"),
        sa.CheckConstraint("scope IN ('key', 'tenant')", "scope_known"),
    )
    _create_function("keep_newest_revocation")
    op.execute(
        "CREATE TRIGGER keep_newest AFTER DELETE ON revocations REFERENCING OLD TABLE AS old_rows "
        "EXECUTE FUNCTION keep_newest_revocation()"
    )
    op.execute(
        "CREATE TRIGGER refuse_change BEFORE UPDATE ON revocations EXECUTE FUNCTION keep_newest_revocation()"
    )
    _create_function("refuse_truncate")
    op.execute(
        "CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON revocations EXECUTE FUNCTION refuse_truncate()"
    )


def _watch_revocations() -> None:
    _create_function("lock_revocations")
    _create_function("notify_key_revoked")
    for table, columns in WATCHED.items():
        # A new tenant or key revokes nothing, but it takes the same lock: what follows in its transaction
        # may, and then it would hold a row that another writer waits for.
        events = f"INSERT OR DELETE OR UPDATE {columns and 'OF ' + columns}"
        op.execute(
            f"CREATE TRIGGER lock_revocations BEFORE {events} ON {table} EXECUTE FUNCTION lock_revocations()"
        )
        # Images of a statement and a list of columns exclude each other, so the function compares.
        arguments = ", ".join(f"'{column}'" for column in IGNORED[table])
        for event in ("update", "delete") if columns else ("insert", "update", "delete"):
            op.execute(
                f"CREATE TRIGGER notify_on_{event} AFTER {event} ON {table} REFERENCING {IMAGES[event]} "
                f"EXECUTE FUNCTION notify_key_revoked({arguments})"
            )
        op.execute(
            f"CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON {table} EXECUTE FUNCTION refuse_truncate()"
        )
