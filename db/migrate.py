"""Bring a database to the schema of this release, and tell how far it is from it.

Safe to run from several replicas at once: whoever comes first holds an advisory lock, the others wait and
find nothing left to do. Each migration is one transaction, so a failing one leaves nothing behind. Alembic
keeps process-wide state while it runs: one process migrates one database at a time.
"""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from advanced_alchemy.alembic.commands import AlembicCommandConfig
from alembic import command
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db.app_rights import make_app_role
from db.app_role import AppRole
from db.drift import find_drift
from db.postgres import create_engine
from db.tables import Base

SCRIPTS: Final = Path(__file__).parent / "migrations"
VERSION_TABLE: Final = "alembic_version"
LOCK: Final = int.from_bytes(b"nng_migr")
LOCK_TIMEOUT_S: Final = 5.0

_SINCE_THE_FIRST: Final = ("api_keys", "revocations", "usage_records")
_PARTITION: Final = re.compile(r"usage_records_\d{4}_\d{2}")


class MigrationRefused(Exception):  # noqa: N818 - reads as what happened
    """The database was left alone. The text is one sentence for the operator."""


async def upgrade(
    dsn: str,
    *,
    app_role: AppRole | None = None,
    scripts: Path = SCRIPTS,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
) -> str:
    """Apply every missing migration and return the revision reached.

    `app_role` is made then, or given its password and its rights anew. `lock_timeout_s` is how long a migration
    may wait for a table in use before it gives way to the traffic.

    Raises
    ------
    MigrationRefused
        The database is ahead of this release, or belongs to something else.
    AppRoleRefused
        It is migrated, but the role was left as it is.
    """
    async with _locked(dsn, lock_timeout_s) as (engine, connection):
        await connection.run_sync(_refuse_foreign, scripts)
        await connection.run_sync(_run, engine, scripts, lambda config: command.upgrade(config, "head"))
        if app_role is not None:
            await make_app_role(connection, app_role)
        return await connection.run_sync(_revision) or "base"


async def downgrade(dsn: str, revision: str, *, scripts: Path = SCRIPTS) -> str:
    """Undo migrations down to `revision` (`base` is the empty database) and return the revision reached.

    Raises
    ------
    MigrationRefused
        The database is ahead of this release, or belongs to something else.
    """
    async with _locked(dsn) as (engine, connection):
        await connection.run_sync(_refuse_foreign, scripts)
        await connection.run_sync(_run, engine, scripts, lambda config: command.downgrade(config, revision))
        return await connection.run_sync(_revision) or "base"


async def current(dsn: str) -> str | None:
    """Return the revision a database is at, None for one that was never migrated."""
    async with _connected(dsn) as (_, connection):
        return await connection.run_sync(_revision)


def head(scripts: Path = SCRIPTS) -> str:
    """Return the newest revision of this release."""
    newest = ScriptDirectory(str(scripts)).get_current_head()
    if newest is None:
        raise RuntimeError(f"no migrations in {scripts}")
    return newest


async def check(dsn: str) -> tuple[str, ...]:
    """Return how a database differs from this release, one phrase per difference; empty means not at all."""
    async with _connected(dsn) as (_, connection):
        found = await connection.run_sync(_revision)
        if found != head():
            return (f"revision is {found or 'none'}, this release wants {head()}",)
        return await connection.run_sync(find_drift, _ours, VERSION_TABLE)


async def draft(dsn: str, message: str, *, scripts: Path = SCRIPTS) -> Path:
    """Write a new migration from the difference between `db/tables.py` and a migrated database."""
    async with _locked(dsn) as (engine, connection):
        made = await connection.run_sync(
            _run, engine, scripts, lambda config: command.revision(config, message, autogenerate=True)
        )
    return Path(made.path)


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[tuple[AsyncEngine, AsyncConnection]]:
    engine = create_engine(
        dsn, application_name="neuronetz-gateway migrate", pool_size=None, statement_timeout_s=None
    )
    try:
        async with engine.connect() as connection:
            yield engine, connection
    finally:
        await engine.dispose()


@asynccontextmanager
async def _locked(
    dsn: str, lock_timeout_s: float = LOCK_TIMEOUT_S
) -> AsyncIterator[tuple[AsyncEngine, AsyncConnection]]:
    """Hold the migration lock; closing the connection releases it, also when we are killed."""
    async with _connected(dsn) as (engine, connection):
        await connection.exec_driver_sql(f"SELECT pg_advisory_lock({LOCK})")
        await connection.exec_driver_sql(f"SET lock_timeout = '{lock_timeout_s}s'")
        await connection.commit()
        yield engine, connection


def _run(
    connection: Connection, engine: AsyncEngine, scripts: Path, order: Callable[[AlembicCommandConfig], Any]
) -> Any:
    config = AlembicCommandConfig(
        engine=engine,
        version_table_name=VERSION_TABLE,
        render_as_batch=False,
        compare_type=True,
        attributes={
            "connection": connection,
            "metadata": Base.metadata,
            "version_table": VERSION_TABLE,
            "include_name": _ours,
        },
    )
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return order(config)


def _ours(name: str | None, kind: str, _parents: object) -> bool:
    """Leave the months of the usage table out of comparisons: they come and go."""
    return kind != "table" or name is None or not _PARTITION.fullmatch(name)


def _revision(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    found = context.get_current_revision()
    connection.rollback()
    return found


def _refuse_foreign(connection: Connection, scripts: Path) -> None:
    found = _revision(connection)
    if found is not None:
        known = {script.revision for script in ScriptDirectory(str(scripts)).walk_revisions()}
        if found not in known:
            raise MigrationRefused(
                f"the database is at schema revision {found}, which this release does not know: "
                "it belongs to a newer release or to another program"
            )
        _refuse_namesake(connection, found)
        return
    tables = connection.exec_driver_sql(
        """
        SELECT c.relname FROM pg_class c
        WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
          AND c.relkind IN ('r', 'p')
          AND c.relname <> $1
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
        ORDER BY c.relname LIMIT 3
        """,
        (VERSION_TABLE,),
    ).scalars()
    foreign = ", ".join(tables)
    connection.rollback()
    if foreign:
        raise MigrationRefused(
            f"the database holds tables of another program ({foreign}): "
            "give the gateway a database of its own"
        )


def _refuse_namesake(connection: Connection, found: str) -> None:
    """Refuse a database whose revision is called like one of ours, as `0001` is in many programs."""
    lacking = connection.exec_driver_sql(
        "SELECT name FROM unnest($1::text[]) name WHERE to_regclass(name) IS NULL", (list(_SINCE_THE_FIRST),)
    ).scalars()
    missing = ", ".join(lacking)
    connection.rollback()
    if missing:
        raise MigrationRefused(
            f"the database is at schema revision {found} but lacks tables of that revision ({missing}): "
            "it belongs to another program; give the gateway a database of its own"
        )
