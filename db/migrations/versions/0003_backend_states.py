"""Backends that operators have drained."""

from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

SQL = Path(__file__).parents[1] / "sql" / revision


def upgrade() -> None:
    """Apply. Nothing that exists is touched."""
    op.create_table(
        "backend_states",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("drained", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("name <> ''", "name_present"),
        sa.CheckConstraint("NOT drained OR reason <> ''", "reason_present"),
        sa.CheckConstraint("changed_by <> ''", "changed_by_present"),
    )
    op.execute((SQL / "notify_backend_states.sql").read_text())
    op.execute(
        "CREATE TRIGGER notify AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON backend_states "
        "EXECUTE FUNCTION notify_backend_states()"
    )


def downgrade() -> None:
    """Undo; drained backends are in service again."""
    op.drop_table("backend_states")
    op.execute("DROP FUNCTION notify_backend_states()")
