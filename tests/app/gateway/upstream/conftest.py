"""The transport must hold on both kinds of event loop: they differ in buffering, closing and TLS."""

import pytest


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    ],
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Run every test of this folder twice."""
    backend: tuple[str, dict[str, bool]] = request.param
    return backend
