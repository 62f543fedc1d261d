"""A program of two tasks: bring the database to this release, and mint the keys of a first start.

`up` starts it before the database is there, so that its imports cost no time of their own. Orders are JSON
lines on standard input, answers are lines on standard output. Keys are asked for last, when everything else
works: nobody could show them a second time. Run `python -m app.embedded.first_start`.
"""

import asyncio
import sys
from typing import Final

import msgspec

from app.embedded.handover import FirstKeys, Migrated, MigrateOrder, MintOrder
from db.app_role import AppRole
from db.migrate import MigrationRefused, upgrade
from db.postgres import Database, UnitOfWork, create_engine
from domain.keys import PepperRing
from domain.tenants import Actor, TenantUnknown

ACTOR: Final = Actor("cli:up")
KEY_NAME: Final = "first key"


async def migrate(order: MigrateOrder) -> Migrated:
    """Apply the missing migrations, and make the role of app and worker."""
    try:
        await upgrade(order.database_url, app_role=AppRole.parse(order.app_database_url))
    except MigrationRefused as exc:
        return Migrated(str(exc))
    return Migrated()


async def mint(order: MintOrder) -> FirstKeys:
    """Make sure that there is an admin key and a tenant which may use every model.

    One transaction; what exists is left as it is.
    """
    database = Database(create_engine(order.database_url, application_name="neuronetz-gateway up"))
    try:
        async with database.unit_of_work(ACTOR) as work:
            peppers = PepperRing.parse(order.key_pepper)
            return FirstKeys(
                admin_key=await _first_admin_key(work, peppers),
                tenant_key=await _first_tenant_key(work, peppers, order.tenant),
            )
    finally:
        await database.aclose()


async def _first_admin_key(work: UnitOfWork, peppers: PepperRing) -> str | None:
    keys = work.keys(None)
    if await keys.list():
        return None
    return (await keys.create(KEY_NAME, peppers=peppers)).minted.reveal()


async def _first_tenant_key(work: UnitOfWork, peppers: PepperRing, slug: str) -> str | None:
    try:
        await work.tenants.get(slug)
    except TenantUnknown:
        tenant = await work.tenants.create(slug, slug.capitalize(), allow_all_models=True)
        return (await work.keys(tenant.id).create(KEY_NAME, peppers=peppers)).minted.reveal()
    return None


def main() -> None:
    """Carry out orders, one line each, until there are no more."""
    orders = msgspec.json.Decoder(MigrateOrder | MintOrder)
    for line in sys.stdin.buffer:
        order = orders.decode(line)
        work = migrate(order) if isinstance(order, MigrateOrder) else mint(order)
        sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(work)) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
