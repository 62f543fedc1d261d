"""What the admin surface works with: built once per process, beside what serves tenants and apart from it."""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.admin.dashboard.lobby import Lobby
from app.admin.dashboard.sessions import Sessions
from app.admin.failed_logins import FailedLogins
from app.admin.fleet import Fleet
from app.admin.login_budget import LoginBudget
from app.admin.logins import Logins
from app.gateway.body import Bodies
from app.gateway.catalogue import Catalogue
from app.gateway.client_address import TrustedProxies
from app.gateway.key_uses import KeyUses
from app.metrics import Metrics
from app.settings import AppSettings
from db.audit import AuditTrail
from db.postgres import Database, create_engine
from db.redis.admin_sessions import AdminSessions
from db.redis.job_board import JobBoard
from db.redis.login_budget import LoginBudgetStore
from db.redis.multiplex import MultiplexedRedis
from db.redis.queue import GatewayQueue
from db.redis.revocation_channel import announced, seen_by
from db.refused_keys import RefusedKeys
from db.revocations import Revocations
from db.usage import UsageRows
from db.usage_rows import LedgerRows
from domain.keys import PepperRing
from domain.ports import KeyStore

MAX_BODY_BYTES: Final = 262_144
"""Far more than any request here has reason to hold."""
MAX_BUFFERED_BYTES: Final = 32 * MAX_BODY_BYTES
"""Apart from what tenants may fill, so that they cannot lock an operator out."""
POOL_SIZE: Final = 3
"""Connections of its own, so that no operator's report can keep a tenant's key waiting."""
REPORT_POOL_SIZE: Final = 2
REPORT_STATEMENT_S: Final = 30.0
"""What is read from the ledger may take longer than any change, and has connections of its own again."""

Follower = Callable[[], Coroutine[Any, Any, None]]


class Administration:
    """The collaborators of every admin handler."""

    def __init__(
        self,
        *,
        database: Database,
        redis: Redis,
        queue: GatewayQueue,
        settings: AppSettings,
        logins: Logins,
        bodies: Bodies,
        peppers: PepperRing,
        fleet: Fleet,
        reports: AsyncEngine,
        followers: tuple[Follower, ...],
    ) -> None:
        """`redis` is a patient client, `reports` patient with long statements.

        `followers` have to run while requests are served.
        """
        self.database: Final = database
        self.logins: Final = logins
        self.bodies: Final = bodies
        self.peppers: Final = peppers
        self.fleet: Final = fleet
        self.queue: Final = queue
        self.jobs: Final = JobBoard(redis)
        self.settings: Final = settings
        self.usage: Final = UsageRows(reports)
        self.ledger: Final = LedgerRows(reports)
        self.lobby: Final = Lobby(logins, Sessions(AdminSessions(redis), peppers), bodies, database)
        self.followers: Final = followers
        self.audit: Final = AuditTrail(database.engine)
        self.revocations: Final = Revocations(database.engine)
        self._redis: Final = redis

    async def seen(self) -> Mapping[str, int]:
        """Return which live process has acted upon which revocation; raises `RedisError` or `OSError`."""
        return await seen_by(self._redis)

    async def announced(self) -> int | None:
        """Return the newest revocation that was announced through Redis; raises as `seen` does."""
        return await announced(self._redis)


@asynccontextmanager
async def running_administration(
    settings: AppSettings,
    *,
    keys: KeyStore,
    peppers: PepperRing,
    key_uses: KeyUses,
    proxies: TrustedProxies,
    catalogue: Catalogue,
    metrics: Metrics,
    patient: Redis,
    queue: GatewayQueue,
    scripts: MultiplexedRedis,
) -> AsyncIterator[Administration]:
    """Give the admin surface's collaborators; at the end write down the last failed logins."""
    async with AsyncExitStack() as stack:
        engine = create_engine(
            settings.database_url.get_secret_value(),
            application_name="neuronetz-gateway admin",
            pool_size=POOL_SIZE,
            statement_timeout_s=settings.postgres_timeout_s,
        )
        stack.push_async_callback(engine.dispose)
        reports = create_engine(
            settings.database_url.get_secret_value(),
            application_name="neuronetz-gateway reports",
            pool_size=REPORT_POOL_SIZE,
            statement_timeout_s=REPORT_STATEMENT_S,
        )
        stack.push_async_callback(reports.dispose)
        database = Database(engine)
        failed = FailedLogins(database, find=RefusedKeys(engine).find_by_digest, metrics=metrics)
        stack.push_async_callback(failed.finish)
        bodies = Bodies(
            max_bytes=MAX_BODY_BYTES,
            base_timeout_s=settings.body_timeout_s,
            max_buffered_bytes=MAX_BUFFERED_BYTES,
        )
        yield Administration(
            database=database,
            redis=patient,
            queue=queue,
            settings=settings,
            logins=Logins(
                keys=keys,
                peppers=peppers,
                key_uses=key_uses,
                proxies=proxies,
                budget=LoginBudget(LoginBudgetStore(scripts)),
                failed=failed,
            ),
            bodies=bodies,
            peppers=peppers,
            fleet=Fleet(settings.backends(), catalogue=catalogue, redis=patient),
            reports=reports,
            followers=(failed.keep_writing, failed.keep_folding, bodies.sweep),
        )
