"""Sums of usage by hour and day, marks of the hours to sum again, months that were dropped, announced expiries."""

from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

SQL = Path(__file__).parents[1] / "sql"
IMAGES = {
    "insert": "NEW TABLE AS new_rows",
    "update": "OLD TABLE AS old_rows NEW TABLE AS new_rows",
    "delete": "OLD TABLE AS old_rows",
}
WATCHED_OF_KEYS = "id, tenant_id, role, status, expires_at, allowed_networks, path_allowed"
COUNTED = ("requests", "estimated_requests", "tokens_in", "tokens_out", "tokens_cached")
TIMED = ("load_us", "prompt_us", "eval_us", "total_us")


def upgrade() -> None:
    """Apply. Writers of usage wait while the index is made and the hours are found, in one reading each."""
    _create_sums("usage_hourly", sa.Column("hour", sa.DateTime(timezone=True), nullable=False))
    _create_sums("usage_daily", sa.Column("day", sa.Date(), nullable=False))
    op.create_table(
        "usage_touched_hours",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), primary_key=True),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index(op.f("ix_usage_touched_hours_hour"), "usage_touched_hours", ["hour"])
    op.create_table(
        "usage_pruned_months",
        sa.Column("period", sa.Date(), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("EXTRACT(day FROM period) = 1", "period_is_a_month"),
    )
    op.execute((SQL / "0002" / "make_usage_partition.sql").read_text())
    _mark_touched_hours()
    op.add_column("api_keys", sa.Column("announced_expiry", sa.DateTime(timezone=True)))
    _lock_revocations_before(f"{WATCHED_OF_KEYS}, announced_expiry")


def downgrade() -> None:
    """Undo; the sums go, also those of months whose rows are gone."""
    _lock_revocations_before(WATCHED_OF_KEYS)
    op.drop_column("api_keys", "announced_expiry")
    for event in IMAGES:
        op.execute(f"DROP TRIGGER mark_hours_on_{event} ON usage_records")
    op.execute("DROP FUNCTION mark_touched_hours()")
    op.drop_index("ix_usage_records_started_at", "usage_records")
    op.execute("DROP FUNCTION make_usage_partition(date)")
    op.execute((SQL / "0001" / "make_usage_partition.sql").read_text())
    for table in ("usage_pruned_months", "usage_touched_hours", "usage_daily", "usage_hourly"):
        op.drop_table(table)


def _create_sums(table: str, when: sa.Column[object]) -> None:
    outcome = postgresql.ENUM(name="usage_outcome", create_type=False)
    op.create_table(
        table,
        when,
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column("outcome", outcome, nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in (*COUNTED, *TIMED)),
        sa.PrimaryKeyConstraint(when.name, "tenant_id", "key_id", "model", "backend", "outcome"),
    )


def _mark_touched_hours() -> None:
    op.execute((SQL / "0002" / "mark_touched_hours.sql").read_text())
    for event, images in IMAGES.items():
        op.execute(
            f"CREATE TRIGGER mark_hours_on_{event} AFTER {event} ON usage_records REFERENCING {images} "
            "EXECUTE FUNCTION mark_touched_hours()"
        )
    # Rows come almost in the order of time, so a few bytes for each megabyte of them find an hour.
    op.create_index(
        "ix_usage_records_started_at",
        "usage_records",
        ["started_at"],
        postgresql_using="brin",
        postgresql_with={"autosummarize": "on"},
    )
    # After the triggers, whose lock keeps writers out: no row can come in between unmarked.
    op.execute(
        "INSERT INTO usage_touched_hours (hour) "
        "SELECT DISTINCT date_trunc('hour', started_at, 'UTC') FROM usage_records"
    )


def _lock_revocations_before(columns: str) -> None:
    op.execute(
        f"CREATE OR REPLACE TRIGGER lock_revocations BEFORE INSERT OR DELETE OR UPDATE OF {columns} ON api_keys "
        "EXECUTE FUNCTION lock_revocations()"
    )
