"""What the tests of Postgres share beyond the databases themselves."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from db.postgres import Database, UnitOfWork
from domain.keys import PepperRing, mint_pepper
from domain.tenants import Actor
from tests.support.servers import Databases


@pytest.fixture(scope="session")
def scratch_url(postgres: Databases, migrated_template: str) -> str:
    """Give the address of the database whose tests undo what they do."""
    return postgres.create(template=migrated_template)


@pytest.fixture
async def scratch(scratch_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Open a bare connection inside a transaction that is rolled back: quick, for what needs no commit."""
    connection = await asyncpg.connect(scratch_url)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


@pytest.fixture
def database(engine: AsyncEngine) -> Database:
    return Database(engine)


@pytest.fixture
async def uow(database: Database) -> AsyncIterator[UnitOfWork]:
    """One unit of work around the whole test."""
    async with database.unit_of_work(Actor("test")) as unit:
        yield unit


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Open a bare connection, the way an operator's psql would write."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
def peppers() -> PepperRing:
    return PepperRing.parse(mint_pepper("p1"))
