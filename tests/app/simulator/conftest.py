"""One simulated server for all tests here, as new before each."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.ollama import SimulatedOllama, simulated_ollama


@pytest.fixture(scope="session")
async def shared_ollama() -> AsyncIterator[SimulatedOllama]:
    async with simulated_ollama(name="a") as server:
        yield server


@pytest.fixture
async def ollama(shared_ollama: SimulatedOllama) -> SimulatedOllama:
    await shared_ollama.wait(in_flight=0, connections=0)
    await shared_ollama.reset()
    return shared_ollama


@pytest.fixture
async def api(ollama: SimulatedOllama) -> AsyncIterator[httpx.AsyncClient]:
    # Plain HTTP only, and to read the machine's authorities takes longer than a test.
    async with httpx.AsyncClient(base_url=ollama.url, trust_env=False, verify=False, timeout=10) as client:  # noqa: S501
        yield client
