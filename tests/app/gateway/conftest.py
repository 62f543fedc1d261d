"""Limiters over real stores, and over a Valkey that goes away."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.limiters import Limiters
from tests.support.stoppable import StoppableValkey


@pytest.fixture
async def limiters(engine: AsyncEngine, redis_url: str) -> AsyncIterator[Limiters]:
    async with Limiters(engine, redis_url) as limiters:
        yield limiters


@pytest.fixture
async def outage(engine: AsyncEngine, own_valkey: StoppableValkey) -> AsyncIterator[Limiters]:
    own_valkey.start()
    async with Limiters(engine, own_valkey.url, timeout_s=0.3) as limiters:
        yield limiters
