"""The schema as the migrations leave it, and how migrating behaves when things go wrong."""

import shutil
from datetime import timedelta
from pathlib import Path

import anyio
import asyncpg
import pytest

from db import migrate
from db.migrate import MigrationRefused
from db.postgres import create_engine
from db.usage import UsageRows
from db.usage_roll_ups import UsageRollUps
from tests.support.ledger_records import DAY, record
from tests.support.servers import Databases

TABLES = [
    *("api_keys", "audit_events", "backend_states", "key_limits", "model_grants", "remembered_creations"),
    "revocations",
    *("tenant_limits", "tenants"),
    *("usage_daily", "usage_hourly", "usage_pruned_months", "usage_records", "usage_touched_hours"),
]
BROKEN = """
from alembic import op

revision = "after_head"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade():
    op.execute("CREATE TABLE half_done (id integer)")
    op.execute("SELECT 1 / 0")


def downgrade():
    pass
""".replace("{head}", migrate.head())

SCHEMA = """
    SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
        SELECT pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
        UNION ALL SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t WHERE NOT t.tgisinternal
        UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default)
            FROM information_schema.columns WHERE table_schema = 'public'
        UNION ALL SELECT conrelid::regclass || ' ' || pg_get_constraintdef(c.oid)
            FROM pg_constraint c WHERE c.connamespace = 'public'::regnamespace
    ) AS found (line)
"""


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """Copy the migrations, to add to them."""
    return Path(
        shutil.copytree(
            migrate.SCRIPTS, tmp_path / "migrations", ignore=shutil.ignore_patterns("__pycache__")
        )
    )


async def test_the_schema_has_its_tables(sql: asyncpg.Connection) -> None:
    found = await sql.fetch(
        "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace"
        " AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> 'alembic_version' ORDER BY 1"
    )

    assert [row[0] for row in found] == TABLES


async def test_the_schema_has_the_three_enums(sql: asyncpg.Connection) -> None:
    found = await sql.fetch(
        "SELECT t.typname, array_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_type t"
        " JOIN pg_enum e ON e.enumtypid = t.oid GROUP BY 1"
    )

    assert {name: set(labels) for name, labels in found} == {
        "tenant_status": {"active", "suspended"},
        "key_status": {"active", "revoked"},
        "usage_outcome": {
            *("completed", "client_closed", "rejected_upstream", "upstream_failed"),
            *("upstream_truncated", "cut", "lost"),
        },
    }


async def test_this_month_and_the_next_two_have_partitions(sql: asyncpg.Connection) -> None:
    wanted = await sql.fetchval(
        "SELECT array_agg('usage_records_' || to_char(now() AT TIME ZONE 'UTC' + make_interval(months => n),"
        " 'YYYY_MM') ORDER BY n) FROM generate_series(0, 2) AS n"
    )
    found = await sql.fetch(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'usage_records'::regclass ORDER BY 1"
    )

    assert [row[0] for row in found] == wanted


async def test_no_drift_after_migrating(database_url: str) -> None:
    assert await migrate.check(database_url) == ()


async def test_an_empty_database_is_reported_as_drift(empty_database_url: str) -> None:
    assert await migrate.check(empty_database_url) == (
        f"revision is none, this release wants {migrate.head()}",
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("ALTER TABLE tenants DROP COLUMN time_zone CASCADE", "tenants"),
        (
            "ALTER TABLE api_keys DROP CONSTRAINT ck_api_keys_digest_length",
            "check api_keys.ck_api_keys_digest",
        ),
        ("ALTER TYPE usage_outcome ADD VALUE 'other'", "enum label usage_outcome.other is not ours"),
        ("DROP TRIGGER notify_on_update ON api_keys", "trigger api_keys.notify_on_update is missing"),
        (
            "ALTER TABLE tenants DISABLE TRIGGER lock_revocations",
            "trigger tenants.lock_revocations is missing",
        ),
        ("CREATE TABLE surplus (id integer)", "surplus"),
    ],
)
async def test_a_changed_schema_is_reported_as_drift(
    database_url: str, sql: asyncpg.Connection, change: str, told: str
) -> None:
    await sql.execute(change)

    assert any(told in phrase for phrase in await migrate.check(database_url))


async def test_down_and_up_again_ends_without_drift(empty_database_url: str) -> None:
    await migrate.upgrade(empty_database_url)
    assert await migrate.downgrade(empty_database_url, "base") == "base"
    assert await migrate.upgrade(empty_database_url) == migrate.head()

    assert await migrate.check(empty_database_url) == ()


async def test_downgrading_leaves_nothing_of_ours(empty_database_url: str, postgres: Databases) -> None:
    await migrate.upgrade(empty_database_url)
    await migrate.downgrade(empty_database_url, "base")

    left = postgres.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        " UNION ALL SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype = 'e'",
        url=empty_database_url,
    )
    assert left == "alembic_version"


def forget(scripts: Path, revision: str) -> None:
    """Take a migration away, and all that come after it."""
    for script in (scripts / "versions").glob("*.py"):
        if script.name >= revision:
            script.unlink()


@pytest.mark.parametrize(
    ("before", "revision"), [("0001", "0002"), ("0002", "0003"), ("0003", "0004"), ("0004", "0005")]
)
async def test_undoing_a_migration_leaves_the_schema_before_it(
    empty_database_url: str, postgres: Databases, scripts: Path, before: str, revision: str
) -> None:
    forget(scripts, revision)
    await migrate.upgrade(empty_database_url, scripts=scripts)
    never_upgraded = postgres.execute(SCHEMA, url=empty_database_url)
    await migrate.upgrade(empty_database_url)
    upgraded = postgres.execute(SCHEMA, url=empty_database_url)
    await migrate.downgrade(empty_database_url, before)

    assert never_upgraded != upgraded
    assert postgres.execute(SCHEMA, url=empty_database_url) == never_upgraded


async def test_usage_written_before_there_were_sums_is_summed(empty_database_url: str, scripts: Path) -> None:
    """The release before this one writes on while and after the database is upgraded."""
    forget(scripts, "0002")
    await migrate.upgrade(empty_database_url, scripts=scripts)
    engine = create_engine(empty_database_url, application_name="test")
    rows, roll_ups = UsageRows(engine), UsageRollUps(engine)
    await rows.insert_batch([record(DAY), record(DAY + timedelta(hours=30))])
    await migrate.upgrade(empty_database_url)
    await rows.insert_batch([record(DAY + timedelta(hours=60))])
    touched = await roll_ups.touched()
    await engine.dispose()

    assert [(hour - DAY) // timedelta(hours=1) for hour in touched] == [0, 30, 60]


async def test_six_replicas_may_migrate_at_once(empty_database_url: str) -> None:
    reached: list[str] = []

    async def replica() -> None:
        reached.append(await migrate.upgrade(empty_database_url))

    async with anyio.create_task_group() as replicas:
        for _ in range(6):
            replicas.start_soon(replica)

    assert reached == [migrate.head()] * 6


async def test_a_failing_migration_leaves_nothing(
    database_url: str, sql: asyncpg.Connection, scripts: Path
) -> None:
    (scripts / "versions" / "broken.py").write_text(BROKEN)

    with pytest.raises(Exception, match="division by zero"):
        await migrate.upgrade(database_url, scripts=scripts)

    assert await migrate.current(database_url) == migrate.head()
    assert await sql.fetchval("SELECT to_regclass('half_done')") is None


async def test_a_migration_gives_way_to_traffic_that_holds_its_table(
    database_url: str, sql: asyncpg.Connection, scripts: Path
) -> None:
    (scripts / "versions" / "broken.py").write_text(BROKEN.replace("SELECT 1 / 0", "DROP TABLE key_limits"))

    async with sql.transaction():
        await sql.execute("SELECT FROM key_limits")
        with pytest.raises(Exception, match="lock timeout"):
            await migrate.upgrade(database_url, scripts=scripts, lock_timeout_s=0.05)

    assert await migrate.current(database_url) == migrate.head()


async def test_a_newer_database_is_left_alone(database_url: str, sql: asyncpg.Connection) -> None:
    await sql.execute("UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(MigrationRefused, match="9999, which this release does not know"):
        await migrate.upgrade(database_url)


async def test_a_database_of_another_program_is_left_alone(
    empty_database_url: str, postgres: Databases
) -> None:
    postgres.execute("CREATE TABLE orders (id integer)", url=empty_database_url)

    with pytest.raises(MigrationRefused, match=r"another program \(orders\)"):
        await migrate.upgrade(empty_database_url)


async def test_a_revision_called_like_ours_does_not_make_a_database_ours(
    empty_database_url: str, postgres: Databases
) -> None:
    for statement in (
        "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)",
        "INSERT INTO alembic_version VALUES ('0001')",
        "CREATE TABLE tenants (id integer)",
    ):
        postgres.execute(statement, url=empty_database_url)

    with pytest.raises(MigrationRefused, match=r"lacks tables of that revision \(api_keys, revocations, "):
        await migrate.upgrade(empty_database_url)

    assert await migrate.current(empty_database_url) == "0001"


async def test_a_draft_is_one_transaction_and_takes_up_the_difference(
    database_url: str, sql: asyncpg.Connection, scripts: Path
) -> None:
    await sql.execute("ALTER TABLE model_grants DROP COLUMN option_policy")
    made = await migrate.draft(database_url, "Policy of grants", scripts=scripts)

    text = made.read_text()
    compile(text, str(made), "exec")
    assert "op.add_column('model_grants'" in text
    assert "autocommit_block" not in text
