"""One running gateway per test process, and its three simulated Ollamas."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.fleet import DESCRIBED, Fleet, started_fleet
from tests.support.gateway import Gateway, Key
from tests.support.homes import Homes

ORIGIN = "https://chat.example.org"
"""Whose pages may call the gateway from a browser."""


@pytest.fixture(scope="session")
async def running(homes: Homes) -> AsyncIterator[Gateway]:
    """Run a gateway of one app process over three backends."""
    settings = {
        "GATEWAY_MAX_BODY_BYTES": str(4 << 20),
        "GATEWAY_BODY_TIMEOUT_SECONDS": "1",
        "MODEL_DISCOVERY_TIMEOUT_SECONDS": "1",
        "GATEWAY_WRITE_TIMEOUT_SECONDS": "1",
        "GATEWAY_PATH_KEYS": "true",
        "GATEWAY_CORS_ORIGINS": ORIGIN,
    }
    with homes.one() as home:
        async with home.running(*started_fleet(), described=DESCRIBED, settings=settings) as gateway:
            yield gateway


@pytest.fixture(scope="session")
async def everything(running: Gateway) -> Key:
    """Add a tenant that may use every model, and give its key."""
    return await running.tenant()


@pytest.fixture
async def gateway(running: Gateway) -> Gateway:
    """Give the gateway with its backends as they were started and nobody's log holding anything."""
    for backend in running.backends.values():
        await backend.reset()
    return running


@pytest.fixture
async def client(gateway: Gateway, everything: Key) -> AsyncIterator[httpx.AsyncClient]:
    """Give an HTTP client of a tenant that may use every model."""
    async with gateway.client(everything) as client:
        yield client


@pytest.fixture
def fleet(gateway: Gateway, client: httpx.AsyncClient) -> Fleet:
    """Give the three backends."""
    return Fleet(gateway, client)
