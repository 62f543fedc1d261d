"""The way to Postgres: one engine per process, and units of work that commit visibly.

The DSN goes to the driver as it is, so everything libpq understands in it (sslmode, sockets, several hosts)
works. Behind PgBouncer in transaction mode (1.21 or newer, which follows prepared statements) let it ignore
the start-up parameters named in `create_engine`; migrations and LISTEN need `DATABASE_DIRECT_URL`.
"""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

from db.audit import AuditLog
from db.backend_states import BackendStates
from db.creations import Creations
from db.every_key import EveryKey
from db.grants import Grants
from db.keys import Keys
from db.limits import LimitLevels
from db.policies import Policies
from db.revocations import RevocationHistory
from db.tenants import Tenants
from db.usage_repairs import UsageRepairs
from domain.tenants import Actor
from domain.values import TenantId

STATEMENT_TIMEOUT_S: Final = 2.0
CONNECT_TIMEOUT_S: Final = 2.0
POOL_TIMEOUT_S: Final = 2.0
POOL_SIZE: Final = 5
_NOT_NOW: Final = frozenset({"08", "53", "55", "57"})
"""Classes of SQLSTATE: connection, resources, object in the wrong state, operator intervention (time limits too)."""
_DRIVER_GRACE_S: Final = 1.0  # the server gives up first, with a better message; this is for a silent network


def create_engine(
    dsn: str,
    *,
    application_name: str,
    pool_size: int | None = POOL_SIZE,
    statement_timeout_s: float | None = STATEMENT_TIMEOUT_S,
) -> AsyncEngine:
    """Return an engine; nothing connects before its first use.

    Parameters
    ----------
    dsn
        `postgresql://...` as libpq reads it.
    application_name
        How the server's own views name our connections.
    pool_size
        Connections kept open; as many again may be opened for a burst. None keeps none.
    statement_timeout_s
        How long one statement may run; None means for ever, which only migrations want.
    """
    server_settings = {"application_name": application_name, "timezone": "UTC"}
    if statement_timeout_s is not None:
        server_settings["statement_timeout"] = str(int(statement_timeout_s * 1000))
    connect = functools.partial(
        asyncpg.connect,
        dsn=dsn.replace("postgresql+asyncpg://", "postgresql://", 1),
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=None if statement_timeout_s is None else statement_timeout_s + _DRIVER_GRACE_S,
        server_settings=server_settings,
    )
    pool: dict[str, Any] = {"poolclass": NullPool}
    if pool_size is not None:
        pool = {
            "pool_size": pool_size,
            "max_overflow": pool_size,
            "pool_timeout": POOL_TIMEOUT_S,
            "pool_pre_ping": True,
        }
    return create_async_engine("postgresql+asyncpg://", async_creator=connect, hide_parameters=True, **pool)


def is_outage(error: Exception) -> bool:
    """Tell whether Postgres could not be asked, or did not answer in time: the same may work a little later.

    False where it has answered that what it was asked is wrong.
    """
    if isinstance(error, (OSError, PoolTimeout)):
        return True
    if not isinstance(error, (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        return False
    cause = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(cause, "sqlstate", None)
    if state is not None:
        return state[:2] in _NOT_NOW
    # The driver's own complaint: about the connection, or about a value that it cannot send.
    told = getattr(cause, "__cause__", None) or cause
    return not isinstance(told, asyncpg.DataError | ValueError)


class UnitOfWork:
    """One transaction of the control plane, done by somebody in particular."""

    def __init__(self, session: AsyncSession, actor: Actor) -> None:
        self._session = session
        self.audit = AuditLog(session, actor)
        self.tenants = Tenants(session, self.audit)
        self.every_key = EveryKey(session)
        self.creations = Creations(session)
        self.backends = BackendStates(session, self.audit)
        self.revocations = RevocationHistory(session)
        self.usage_repairs = UsageRepairs(session, self.audit)

    def keys(self, tenant_id: TenantId | None) -> Keys:
        """Return the keys of one tenant, or the admin keys for None."""
        return Keys(self._session, tenant_id, self.audit)

    def grants(self, tenant_id: TenantId) -> Grants:
        """Return the grants of one tenant and of its keys."""
        return Grants(self._session, tenant_id, self.audit)

    def policies(self, tenant_id: TenantId) -> Policies:
        """Return the option policies of one tenant, of its keys and of both's grants."""
        return Policies(self._session, tenant_id, self.audit)

    def limits(self, tenant_id: TenantId) -> LimitLevels:
        """Return the limits of one tenant and of its keys."""
        return LimitLevels(self._session, tenant_id, self.audit)


class Database:
    """Postgres for the control plane. Hot readers take the engine itself."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)

    @asynccontextmanager
    async def unit_of_work(self, actor: Actor) -> AsyncIterator[UnitOfWork]:
        """Run a block in one transaction: committed at its end, rolled back if it raises.

        A failing commit raises too, so whatever follows the block may rely on it.
        """
        async with self._sessions.begin() as session:
            yield UnitOfWork(session, actor)

    async def ping(self) -> None:
        """Ask for one row; raises whatever the driver raises."""
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def aclose(self) -> None:
        """Close every connection."""
        await self.engine.dispose()
