"""A program of one task: bring the database to this release, and mint what a first start needs.

`up` starts it before the database is there, so that its imports cost no time of their own: it waits for one
JSON line on standard input and answers with one on standard output. Run `python -m app.embedded.first_start`.
"""

import asyncio
import sys
from typing import Final

import msgspec

from app.embedded.handover import Order, Prepared
from db.migrate import MigrationRefused, upgrade
from db.postgres import Database, UnitOfWork, create_engine
from domain.keys import PepperRing
from domain.tenants import Actor, TenantUnknown

ACTOR: Final = Actor("cli:up")
KEY_NAME: Final = "first key"


async def prepare(order: Order) -> Prepared:
    """Migrate, then make sure that there is an admin key and a tenant which may use every model.

    Both happen in one transaction. Safe to repeat: what exists is left as it is.
    """
    try:
        await upgrade(order.database_url)
    except MigrationRefused as exc:
        return Prepared(refusal=f"PostgreSQL was left alone: {exc}.")
    database = Database(create_engine(order.database_url, application_name="neuronetz-gateway up"))
    try:
        async with database.unit_of_work(ACTOR) as work:
            peppers = PepperRing.parse(order.key_pepper)
            return Prepared(
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
    """Read one order, carry it out, answer."""
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    prepared = asyncio.run(prepare(order))
    sys.stdout.buffer.write(msgspec.json.encode(prepared) + b"\n")


if __name__ == "__main__":
    main()
