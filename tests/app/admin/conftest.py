"""One running gateway per test process, and operators who call its admin surface from addresses of their own."""

from collections.abc import AsyncIterator
from itertools import count

import asyncpg
import pytest

from tests.support.admin import Desk
from tests.support.gateway import Gateway
from tests.support.homes import Homes
from tests.support.ollama import SimulatedOllama

_ADDRESSES = count(1)


@pytest.fixture(scope="session")
async def gateway(homes: Homes) -> AsyncIterator[Gateway]:
    """Run a gateway of one app process over one backend."""
    backend = SimulatedOllama.start(name="a", models="llama3.2:latest", tokens=8)
    with homes.one() as home:
        async with home.running(backend, settings={"GATEWAY_BODY_TIMEOUT_SECONDS": "1"}) as gateway:
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
