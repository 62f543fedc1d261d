"""One running gateway per test process, and operators who call its admin surface from addresses of their own."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path

import asyncpg
import pytest

from tests.support.admin import Desk
from tests.support.gateway import Gateway
from tests.support.ollama import SimulatedOllama
from tests.support.servers import Databases, RedisDatabases

_ADDRESSES = count(1)


@pytest.fixture(scope="session")
async def gateway(
    postgres: Databases,
    migrated_template: str,
    valkey: RedisDatabases,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Gateway]:
    """Run a gateway of one app process over one backend."""
    directory: Path = tmp_path_factory.mktemp("admin-gateway")
    async with AsyncExitStack() as stack:
        backend = SimulatedOllama.start(name="a", models="llama3.2:latest", tokens=8)
        stack.push_async_callback(backend.stop)
        gateway = Gateway(
            database_url=postgres.create(template=migrated_template),
            redis_url=valkey.claim(),
            backends=[backend],
            directory=directory,
            settings={"GATEWAY_BODY_TIMEOUT_SECONDS": "1"},
        )
        stack.push_async_callback(gateway.aclose)
        await gateway.start()
        yield gateway


@pytest.fixture(scope="session")
async def admin_key(gateway: Gateway) -> str:
    """Mint the operator's key."""
    return await gateway.admin_key()


@pytest.fixture
def address() -> str:
    """Give an address nobody else calls from."""
    number = next(_ADDRESSES)
    return f"198.18.{number // 250}.{number % 250 + 1}"


@pytest.fixture
async def desk(gateway: Gateway, admin_key: str, address: str) -> AsyncIterator[Desk]:
    """Give a client with the operator's key."""
    async with Desk(gateway, admin_key, address) as desk:
        yield desk


@pytest.fixture
async def sql(gateway: Gateway) -> AsyncIterator[asyncpg.Connection]:
    """Open a bare connection to the gateway's database."""
    connection = await asyncpg.connect(gateway.database_url)
    yield connection
    await connection.close()
