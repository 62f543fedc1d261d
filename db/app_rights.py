"""What the role of app and worker may do: it reads and writes rows, and cannot change the schema.

`migrate` makes it. What needs the owner in between, a month of usage that is made or dropped, is done by functions
of the owner that check what they are asked for.
"""

import base64
import hashlib
import hmac
import secrets
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from db.app_role import NAME, AppRole

TABLES: Final = {
    "alembic_version": "SELECT",
    "tenants": "SELECT, INSERT, UPDATE",
    "tenant_limits": "SELECT, INSERT, UPDATE",
    "api_keys": "SELECT, INSERT, UPDATE",
    "key_limits": "SELECT, INSERT, UPDATE",
    "model_grants": "SELECT, INSERT, UPDATE, DELETE",
    "usage_records": "SELECT, INSERT, UPDATE",
    "usage_hourly": "SELECT, INSERT, UPDATE, DELETE",
    "usage_daily": "SELECT, INSERT, UPDATE, DELETE",
    "usage_touched_hours": "SELECT, INSERT, DELETE",
    "usage_pruned_months": "SELECT, INSERT",
    "backend_states": "SELECT, INSERT, UPDATE",
    "audit_events": "SELECT, INSERT",
    "revocations": "SELECT, INSERT, DELETE",
    "remembered_creations": "SELECT, INSERT, UPDATE, DELETE",
}
FUNCTIONS: Final = "make_usage_partition(date), drop_usage_partition(date)"

_ITERATIONS: Final = 4096  # PostgreSQL's own number; the password is expected to be a random one
_NOT_ALLOWED: Final = "42501"

_MAY_MORE: Final = text("""
    SELECT r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls
        OR EXISTS (SELECT FROM pg_auth_members AS m WHERE m.member = r.oid)
        OR EXISTS (SELECT FROM pg_class AS c WHERE c.relowner = r.oid)
    FROM pg_roles AS r WHERE r.rolname = :name
""")
_PLACE: Final = text(
    "SELECT quote_ident(current_database()), quote_ident(current_schema()), quote_ident(:name)"
)


class AppRoleRefused(Exception):  # noqa: N818 - reads as what happened
    """The role was left as it is. The text is one sentence for the operator."""


async def make_app_role(connection: AsyncConnection, role: AppRole) -> None:
    """Make the role or give it its password, let it do what app and worker do, and nothing else; commit.

    Raises
    ------
    AppRoleRefused
        A role of this name may do more than app and worker need, or we may not make roles.
    """
    may_more = (await connection.execute(_MAY_MORE, {"name": role.name})).scalar()
    if may_more:
        raise AppRoleRefused(
            f"The role {role.name} of GATEWAY_APP_DATABASE_URL may do more than app and worker need, or owns tables:"
            f" name another one, such as {NAME}."
        )
    database, schema, name = (await connection.execute(_PLACE, {"name": role.name})).one()
    # Only a superuser may say NOSUPERUSER of a role that is there; what it may has been looked at.
    how = (
        f"CREATE ROLE {name} NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT"
        if may_more is None
        else f"ALTER ROLE {name}"
    )
    try:
        # The verifier goes over the wire and perhaps into the server's log, the password never does.
        await connection.exec_driver_sql(f"{how} LOGIN PASSWORD '{_verifier(role.password)}'")
        for statement in _rights(database, schema, name):
            await connection.exec_driver_sql(statement)
    except DBAPIError as exc:
        if getattr(exc.orig, "sqlstate", None) != _NOT_ALLOWED:
            raise
        raise AppRoleRefused(
            f"The role of DATABASE_URL may not make the role {role.name}: give it CREATEROLE, or leave"
            " GATEWAY_APP_DATABASE_URL blank and let app and worker use one role with migrate."
        ) from None
    await connection.commit()


def _rights(database: str, schema: str, role: str) -> tuple[str, ...]:
    """Return the statements that give the role its rights, after those that take away all others."""
    return (
        f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC",
        f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC",
        f"REVOKE EXECUTE ON FUNCTION {FUNCTIONS} FROM PUBLIC",  # a restore without privileges forgets it
        f"REVOKE ALL ON SCHEMA {schema} FROM {role}",
        f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {role}",
        f"GRANT CONNECT ON DATABASE {database} TO {role}",
        f"GRANT USAGE ON SCHEMA {schema} TO {role}",
        *(f"GRANT {rights} ON {table} TO {role}" for table, rights in TABLES.items()),
        f"GRANT EXECUTE ON FUNCTION {FUNCTIONS} TO {role}",
    )


def _verifier(password: str) -> str:
    """Return what PostgreSQL keeps of a password (SCRAM-SHA-256, RFC 5803), in letters that need no quoting."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${_ITERATIONS}:{salt64}${stored64}:{server64}"
