"""Creations are remembered, so that a request that is sent again creates nothing twice."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "remembered_creations",
        sa.Column("asker", sa.Uuid(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("location", sa.Text(), server_default="", nullable=False),
        sa.Column("answer", sa.Text()),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("asker", "idempotency_key"),
        sa.CheckConstraint("octet_length(fingerprint) = 32", "fingerprint_length"),
    )
    op.create_index(op.f("ix_remembered_creations_at"), "remembered_creations", ["at"])


def downgrade() -> None:
    """Undo; requests that are sent again create again."""
    op.drop_table("remembered_creations")
