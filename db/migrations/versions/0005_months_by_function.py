"""Months of usage are made and dropped by functions of the owner, so that app and worker need no right to do so."""

from collections.abc import Sequence
from pathlib import Path

from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

SQL = Path(__file__).parents[1] / "sql"
FUNCTIONS = ("make_usage_partition", "drop_usage_partition")


def upgrade() -> None:
    """Apply. Nothing that exists is touched."""
    # The functions keep this path. Temporary tables come last, or a caller's own could stand in for ours.
    op.execute("SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)")
    for function in FUNCTIONS:
        op.execute((SQL / revision / f"{function}.sql").read_text())
        op.execute(f"REVOKE EXECUTE ON FUNCTION {function}(date) FROM PUBLIC")


def downgrade() -> None:
    """Undo; app and worker need the owner's role again."""
    op.execute("DROP FUNCTION drop_usage_partition(date)")
    op.execute((SQL / "0002" / "make_usage_partition.sql").read_text())
    op.execute("GRANT EXECUTE ON FUNCTION make_usage_partition(date) TO PUBLIC")
