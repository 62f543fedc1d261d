"""Tenants and keys of a running gateway, made as its command line makes them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from db.postgres import Database, create_engine
from domain.keys import PepperRing
from domain.limits import LimitKind
from domain.tenants import Actor
from domain.values import KeyId, TenantId

_ACTOR = Actor("bench")


class Key(NamedTuple):
    """A key, its text included."""

    text: str
    tenant_id: TenantId
    key_id: KeyId


class Tenants:
    """Adds tenants and their keys, and revokes keys."""

    def __init__(self, database: Database, peppers: PepperRing) -> None:
        self._database = database
        self._peppers = peppers

    async def add(
        self,
        slug: str,
        *,
        keys: int = 1,
        limits: Mapping[LimitKind, int] | None = None,
        key_limits: Mapping[LimitKind, int] | None = None,
    ) -> Sequence[Key]:
        """Add a tenant that may use every model and return its keys; `key_limits` hold for each of them."""
        async with self._database.unit_of_work(_ACTOR) as work:
            tenant = await work.tenants.create(slug, slug, allow_all_models=True)
            issued = [await work.keys(tenant.id).create("bench", peppers=self._peppers) for _ in range(keys)]
            if limits is not None:
                await work.limits(tenant.id).set(limits)
            if key_limits is not None:
                for each in issued:
                    await work.limits(tenant.id).set(key_limits, key=str(each.summary.id))
        return [Key(each.minted.reveal(), tenant.id, each.summary.id) for each in issued]

    async def revoke(self, key: Key) -> None:
        """Revoke a key; when this returns, that is committed."""
        async with self._database.unit_of_work(_ACTOR) as work:
            await work.keys(key.tenant_id).revoke(str(key.key_id))


@asynccontextmanager
async def tenants_of(environ: Mapping[str, str]) -> AsyncIterator[Tenants]:
    """Give access to the tenants of the gateway with these settings until the block ends."""
    database = Database(create_engine(environ["DATABASE_URL"], application_name="bench"))
    try:
        yield Tenants(database, PepperRing.parse(environ["GATEWAY_KEY_PEPPER"]))
    finally:
        await database.aclose()
