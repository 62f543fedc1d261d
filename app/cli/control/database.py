"""The control plane in the database itself: each call is one transaction, done in the name of who types."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from msgspec import UnsetType
from pydantic import SecretStr

from app.cli.confirmed import wait_for_confirmation
from app.cli.control.port import Changed, ExportWanted, KeyFound
from app.cli.failure import InputRefused
from app.cli.options import Local
from app.cli.people import actor
from app.cli.place import environment, gateway_url, load, open_database
from app.cli.settings import KeyMintingSettings
from db.audit import AuditTrail
from db.postgres import Database, UnitOfWork
from db.revocation_wait import Confirmation
from db.revocations import Revocations
from db.settings import DatabaseSettings, RedisSettings
from db.usage import UsageRows
from db.usage_rows import LedgerRows
from domain.keys import PepperRing
from domain.limits import LimitKind
from domain.tenants import (
    AuditEvent,
    AuditFilter,
    GrantSummary,
    IssuedKey,
    KeyChange,
    KeySummary,
    LimitSummary,
    Network,
    PolicySummary,
    Rotation,
    Tenant,
    TenantChange,
    TenantStatus,
)
from domain.usage_report import UsageGroup, UsageReport
from domain.usage_rows import RowPlace, UsageFilter
from domain.values import Limits, OptionRule

if TYPE_CHECKING:
    from app.cli.control.database_fleet import DatabaseFleet

_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)


@asynccontextmanager
async def database_control_plane(
    common: Local, *, waits: bool = False
) -> AsyncIterator["DatabaseControlPlane"]:
    """Give the control plane of this machine's gateway.

    Raises
    ------
    CommandFailed
        There is none, or its settings or its database cannot be used.
    """
    environ = environment(common)
    settings = load(DatabaseSettings, environ)
    redis_url = load(RedisSettings, environ).redis_url if waits else None
    async with open_database(settings) as database:
        yield DatabaseControlPlane(environ, database, redis_url)


class DatabaseControlPlane:
    """See `app.cli.control.port.ControlPlane`."""

    def __init__(self, environ: Mapping[str, str], database: Database, redis_url: SecretStr | None) -> None:
        self.tenants: Final = _Tenants(database)
        self.keys: Final = _Keys(database, environ)
        self.limits: Final = _Limits(database)
        self.grants: Final = _Grants(database)
        self.policies: Final = _Policies(database)
        self.usage: Final = _Usage(database)
        self.gateway_url: Final = gateway_url(environ)
        self._environ = environ
        self._database = database
        self._redis_url = redis_url

    @property
    def fleet(self) -> "DatabaseFleet":
        """Backends, models and jobs, whose modules few commands need."""
        from app.cli.control.database_fleet import DatabaseFleet

        return DatabaseFleet(self._environ, self._database)

    async def confirm(self, *, since: float) -> Confirmation | None:
        """Wait for those who report in Redis."""
        if self._redis_url is None:
            raise ValueError("opened without waits=True")
        seq = await Revocations(self._database.engine).latest_seq()
        return await wait_for_confirmation(seq, since=since, redis_url=self._redis_url)

    async def audit(self, wanted: AuditFilter, limit: int) -> tuple[AuditEvent, ...]:
        """Read the audit log."""
        return await AuditTrail(self._database.engine).newest(wanted, before=None, limit=limit)


class _Desk:
    def __init__(self, database: Database) -> None:
        self._database = database

    def _work(self) -> AbstractAsyncContextManager[UnitOfWork]:
        return self._database.unit_of_work(actor())


class _Tenants(_Desk):
    async def list(self) -> tuple[Tenant, ...]:
        async with self._work() as work:
            return await work.tenants.list()

    async def get(self, slug: str) -> Tenant:
        async with self._work() as work:
            return await work.tenants.get(slug)

    async def create(self, slug: str, name: str, *, time_zone: str, allow_all_models: bool) -> Tenant:
        async with self._work() as work:
            return await work.tenants.create(
                slug, name, time_zone=time_zone, allow_all_models=allow_all_models
            )

    async def change(self, slug: str, change: TenantChange) -> Changed[Tenant]:
        async with self._work() as work:
            await work.revocations.lock()
            return Changed(await work.tenants.get(slug), await work.tenants.change(slug, change))

    async def set_status(self, slug: str, status: TenantStatus) -> Changed[Tenant]:
        async with self._work() as work:
            await work.revocations.lock()
            return Changed(await work.tenants.get(slug), await work.tenants.set_status(slug, status))


class _Keys(_Desk):
    def __init__(self, database: Database, environ: Mapping[str, str]) -> None:
        super().__init__(database)
        self._environ = environ

    async def list(self, owner: Tenant | None) -> tuple[KeySummary, ...]:
        async with self._work() as work:
            return await work.keys(None if owner is None else owner.id).list()

    async def get(self, owner: Tenant, reference: str) -> KeySummary:
        async with self._work() as work:
            return await work.keys(owner.id).get(reference)

    async def every(self) -> tuple[KeyFound, ...]:
        async with self._work() as work:
            return tuple(KeyFound(*each) for each in await work.every_key.list())

    async def find(self, reference: str) -> KeyFound:
        async with self._work() as work:
            return KeyFound(*await work.every_key.find(reference))

    async def create(
        self,
        owner: Tenant | None,
        name: str,
        *,
        expires_at: datetime | None,
        allowed_networks: tuple[Network, ...],
        path_allowed: bool,
    ) -> IssuedKey:
        peppers = self._peppers()
        async with self._work() as work:
            return await work.keys(None if owner is None else owner.id).create(
                name,
                peppers=peppers,
                expires_at=expires_at,
                allowed_networks=allowed_networks,
                path_allowed=path_allowed,
            )

    async def change(self, found: KeyFound, change: KeyChange) -> Changed[KeySummary]:
        key_id = str(found.summary.id)
        async with self._work() as work:
            await work.revocations.lock()
            keys = work.keys(found.summary.tenant_id)
            return Changed(await keys.get(key_id), await keys.change(key_id, change))

    async def rotate(
        self, found: KeyFound, *, overlap: timedelta, expires_at: datetime | UnsetType | None
    ) -> Rotation:
        peppers = self._peppers()
        async with self._work() as work:
            return await work.keys(found.summary.tenant_id).rotate(
                str(found.summary.id), peppers=peppers, overlap=overlap, expires_at=expires_at
            )

    async def revoke(self, found: KeyFound) -> Changed[KeySummary]:
        key_id = str(found.summary.id)
        async with self._work() as work:
            await work.revocations.lock()
            keys = work.keys(found.summary.tenant_id)
            return Changed(await keys.get(key_id), await keys.revoke(key_id))

    def _peppers(self) -> PepperRing:
        return PepperRing.parse(load(KeyMintingSettings, self._environ).key_pepper.get_secret_value())


class _Limits(_Desk):
    async def list(self, owner: Tenant) -> tuple[LimitSummary, ...]:
        async with self._work() as work:
            return await work.limits(owner.id).list()

    async def get(self, owner: Tenant, key: str | None) -> Limits:
        async with self._work() as work:
            return await work.limits(owner.id).get(key=key)

    async def set(
        self, owner: Tenant, key: str | None, changes: Mapping[LimitKind, int | None]
    ) -> Changed[Limits]:
        async with self._work() as work:
            await work.revocations.lock()
            levels = work.limits(owner.id)
            before = await levels.get(key=key)
            await levels.set(changes, key=key)
            return Changed(before, await levels.get(key=key))

    async def clear(self, owner: Tenant, key: str | None) -> bool:
        async with self._work() as work:
            return await work.limits(owner.id).clear(key=key)


class _Grants(_Desk):
    async def list(self, owner: Tenant, key: str | None = None) -> tuple[GrantSummary, ...]:
        async with self._work() as work:
            return await work.grants(owner.id).list(key=key)

    async def allow(self, owner: Tenant, pattern: str, key: str | None) -> bool:
        async with self._work() as work:
            return await work.grants(owner.id).allow(pattern, key=key)

    async def disallow(self, owner: Tenant, pattern: str, key: str | None) -> bool:
        async with self._work() as work:
            return await work.grants(owner.id).disallow(pattern, key=key)


class _Policies(_Desk):
    async def list(self, owner: Tenant, key: str | None = None) -> tuple[PolicySummary, ...]:
        async with self._work() as work:
            return await work.policies(owner.id).list(key=key)

    async def set(
        self, owner: Tenant, field: str, rule: OptionRule, *, key: str | None, pattern: str | None
    ) -> bool:
        async with self._work() as work:
            return await work.policies(owner.id).set(field, rule, key=key, pattern=pattern)

    async def clear(self, owner: Tenant, field: str, *, key: str | None, pattern: str | None) -> bool:
        async with self._work() as work:
            return await work.policies(owner.id).clear(field, key=key, pattern=pattern)


class _Usage:
    def __init__(self, database: Database) -> None:
        self._rows = UsageRows(database.engine)
        self._ledger = LedgerRows(database.engine)

    async def report(
        self, by: UsageGroup, *, since: datetime, until: datetime, tenant: Tenant | None
    ) -> UsageReport:
        return await self._rows.summary(
            by, since=since, until=until, tenant_id=None if tenant is None else tenant.id
        )

    async def export(self, wanted: ExportWanted) -> AsyncGenerator[bytes, None]:
        # It brings the web framework along, which no other command needs.
        from app.cursors import place_of
        from app.usage_export import ExportFormat, export

        try:
            after = None if wanted.cursor is None else place_of(wanted.cursor, RowPlace)
        except ValueError:
            raise InputRefused("That is no cursor of an export.") from None
        rows = UsageFilter(
            _BEGINNING if wanted.since is None else wanted.since,
            wanted.until,
            tenant_id=None if wanted.tenant is None else wanted.tenant.id,
        )
        async for piece in export(self._ledger, rows, form=ExportFormat(wanted.layout), after=after):
            yield piece
