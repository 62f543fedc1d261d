"""The role of app and worker does what they do and no more; that it suffices, every test with `engine` shows."""

from collections.abc import AsyncIterator, Iterator
from datetime import date
from urllib.parse import urlsplit

import asyncpg
import pytest

from db import migrate
from db.app_rights import TABLES, AppRoleRefused
from db.app_role import AppRole
from db.tables import Base
from tests.support.servers import APP_ROLE, Databases

OTHER = AppRole("other_app", "first")
FORBIDDEN = (
    "CREATE TABLE mine (id int)",
    "CREATE TEMPORARY TABLE usage_records (id int)",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE ROLE mine",
    "SET ROLE gateway",
    "ALTER TABLE tenants ADD COLUMN mine int",
    "ALTER TABLE audit_events DISABLE TRIGGER refuse_change",
    "ALTER FUNCTION make_usage_partition(date) RESET search_path",
    "DROP TABLE tenants",
    "DROP FUNCTION drop_usage_partition(date)",
    "TRUNCATE usage_hourly",
    "TRUNCATE audit_events",
    "UPDATE audit_events SET actor = 'x'",
    "DELETE FROM audit_events",
    "UPDATE revocations SET seq = 1",
    "DELETE FROM usage_records",
    "DELETE FROM tenants",
    "UPDATE alembic_version SET version_num = 'x'",
)


@pytest.fixture(scope="module")
async def url(postgres: Databases, migrated_template: str) -> AsyncIterator[str]:
    """Give the address of this module's database; a copy has not what the role may do in the original."""
    url = postgres.create(template=migrated_template)
    await migrate.upgrade(url, app_role=APP_ROLE)
    yield url
    postgres.drop(url)


@pytest.fixture
async def app(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection as app and worker do."""
    connection = await asyncpg.connect(APP_ROLE.address(url))
    yield connection
    await connection.close()


@pytest.fixture
def plain_owner_url(postgres: Databases) -> Iterator[str]:
    """Give the address of an empty database whose owner is no superuser and may not make roles."""
    url = postgres.create()
    name = urlsplit(url).path.lstrip("/")
    postgres.execute("CREATE ROLE plain_owner LOGIN PASSWORD 'plain'")
    postgres.execute(f"ALTER DATABASE {name} OWNER TO plain_owner")
    yield AppRole("plain_owner", "plain").address(url)
    postgres.drop(url)
    postgres.execute("DROP ROLE IF EXISTS plains_app")
    postgres.execute("DROP ROLE plain_owner")


@pytest.mark.parametrize("statement", FORBIDDEN)
async def test_t46_app_and_worker_change_neither_schema_nor_history(
    app: asyncpg.Connection, statement: str
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute(statement)


def test_every_table_has_its_rights() -> None:
    assert set(TABLES) == {*Base.metadata.tables, migrate.VERSION_TABLE}


@pytest.mark.parametrize("month", [None, date.min, date.max.replace(year=1969), "infinity"])
async def test_only_months_of_usage_are_made(app: asyncpg.Connection, month: date | str | None) -> None:
    sent = "NULL" if month is None else f"'{month}'"

    with pytest.raises(asyncpg.InvalidParameterValueError, match="no month of usage"):
        await app.execute(f"SELECT make_usage_partition({sent})")


async def test_a_month_that_is_not_over_is_not_dropped(app: asyncpg.Connection) -> None:
    month = "date_trunc('month', now() AT TIME ZONE 'UTC')::date"
    await app.execute(f"INSERT INTO usage_pruned_months (period) VALUES ({month}) ON CONFLICT DO NOTHING")

    with pytest.raises(asyncpg.RestrictViolationError, match="is not over"):
        await app.execute(f"SELECT drop_usage_partition({month})")


async def test_a_month_whose_sums_are_not_final_is_not_dropped(app: asyncpg.Connection) -> None:
    await app.execute("SELECT make_usage_partition('2020-01-01')")

    with pytest.raises(asyncpg.RestrictViolationError, match="2020-01-01 is not over, or its sums are not"):
        await app.execute("SELECT drop_usage_partition('2020-01-01')")


async def test_the_owners_functions_are_closed_to_others_and_look_at_temporary_tables_last(
    scratch: asyncpg.Connection,
) -> None:
    found = await scratch.fetch("""
        SELECT p.proname, p.proconfig, EXISTS (SELECT FROM aclexplode(p.proacl) WHERE grantee = 0) AS open
        FROM pg_proc AS p WHERE p.prosecdef AND p.pronamespace = 'public'::regnamespace ORDER BY 1
    """)

    assert [tuple(row) for row in found] == [
        (name, ["search_path=public, pg_temp"], False)
        for name in ("drop_usage_partition", "make_usage_partition")
    ]


async def test_migrating_again_changes_the_password(database_url: str) -> None:
    changed = OTHER._replace(password="it's\"%s;--/@")
    for role in (OTHER, changed):
        await migrate.upgrade(database_url, app_role=role)

    connection = await asyncpg.connect(changed.address(database_url))
    assert await connection.fetchval("SELECT count(*) FROM tenants") == 0
    await connection.close()
    assert AppRole.parse(changed.address(database_url)) == changed
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(OTHER.address(database_url))


async def test_a_right_of_another_release_is_taken_away(database_url: str, sql: asyncpg.Connection) -> None:
    await sql.execute(
        f"GRANT ALL ON audit_events TO {APP_ROLE.name}; GRANT CREATE ON SCHEMA public TO PUBLIC"
    )

    await migrate.upgrade(database_url, app_role=APP_ROLE)

    assert not await sql.fetchval("SELECT has_table_privilege($1, 'audit_events', 'DELETE')", APP_ROLE.name)
    assert not await sql.fetchval("SELECT has_schema_privilege($1, 'public', 'CREATE')", APP_ROLE.name)


async def test_a_role_that_may_more_is_left_as_it_is(database_url: str) -> None:
    owner = AppRole.parse(database_url)

    with pytest.raises(AppRoleRefused, match="role gateway of GATEWAY_APP_DATABASE_URL may do more"):
        await migrate.upgrade(database_url, app_role=owner._replace(password="another"))

    await (await asyncpg.connect(database_url)).close()


async def test_an_owner_that_may_make_roles_is_enough(plain_owner_url: str, postgres: Databases) -> None:
    role = AppRole("plains_app", "first")
    with pytest.raises(AppRoleRefused, match="give it CREATEROLE"):
        await migrate.upgrade(plain_owner_url, app_role=role)
    postgres.execute("ALTER ROLE plain_owner CREATEROLE")

    for password in ("first", "second"):
        await migrate.upgrade(plain_owner_url, app_role=role._replace(password=password))

    connection = await asyncpg.connect(role._replace(password="second").address(plain_owner_url))
    assert await connection.fetchval("SELECT count(*) FROM audit_events") == 0
    await connection.close()


@pytest.mark.parametrize(
    "url", ["postgresql://h/d", "postgresql://a@h/d", "mysql://a:b@h/d", "postgresql://a:p%C3%A4ss@h/d"]
)
def test_an_address_without_role_and_password_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"must have a password|must be an address") as refused:
        AppRole.parse(url)

    assert url not in str(refused.value)
