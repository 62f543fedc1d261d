"""The documentation as operators reach it: with an admin key, in a browser too, which asks nobody else."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from playwright.async_api import Browser, Page, expect

from tests.support.admin import problem, wait_for
from tests.support.chromium import running_chromium
from tests.support.gateway import Gateway
from tests.support.scenes import CannotRun

PATHS = ["/docs", "/docs/swagger", "/docs/openapi.json", "/docs/static/scalar.js", "/docs/nothing"]
SHOWN = "Continue a prompt"
SHOWN_WITHIN_MS = 60_000.0


@pytest.mark.parametrize("path", PATHS)
async def test_a_browser_without_a_key_is_asked_for_one(gateway: Gateway, path: str) -> None:
    async with gateway.client() as client:
        reply = await client.get(path)

    problem(reply, 401, "unauthenticated")
    assert reply.headers["www-authenticate"].startswith("Basic realm=")
    assert reply.headers["cache-control"] == "no-store"


async def test_a_tenants_key_opens_nothing(gateway: Gateway, address: str) -> None:
    key = await gateway.tenant()

    async with gateway.client(key) as client:
        reply = await client.get("/docs", headers={"X-Forwarded-For": address})

    problem(reply, 401, "unauthenticated")


async def test_guessing_here_is_as_slow_as_at_the_admin_surface(gateway: Gateway, address: str) -> None:
    async with gateway.client() as client:
        client.headers["X-Forwarded-For"] = address
        tries = [(await client.get("/docs", auth=("", f"wrong-{each}"))).status_code for each in range(6)]

    assert tries == [401] * 5 + [429]


@pytest.mark.parametrize("path", PATHS[:-1])
async def test_an_admin_key_as_password_opens_it(gateway: Gateway, admin_key: str, path: str) -> None:
    async with gateway.client() as client:
        reply = await client.get(path, auth=("anybody", admin_key))

    assert reply.status_code == httpx.codes.OK
    assert int(reply.headers["content-length"]) > 0


async def test_keys_are_proven_where_nothing_but_the_documentation_is_served(
    gateway: Gateway, admin_key: str
) -> None:
    async with _neighbour(gateway, GATEWAY_SURFACES="docs") as client:
        replies = [await client.get("/docs", auth=("", password)) for password in (admin_key, "wrong")]
        of_admin = await client.get("/admin/v1/me", auth=("", admin_key))

    assert [reply.status_code for reply in replies] == [200, 401]
    assert of_admin.status_code == httpx.codes.NOT_FOUND


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    try:
        async with running_chromium() as browser:
            yield browser
    except CannotRun as reason:
        pytest.skip(str(reason))


async def test_a_browser_with_the_key_shows_operations_and_asks_no_other_host(
    gateway: Gateway, admin_key: str, browser: Browser
) -> None:
    for path in PATHS[:2]:
        context = await browser.new_context(http_credentials={"username": "any", "password": admin_key})
        page = await context.new_page()
        asked, said = _heard(page)

        await page.goto(gateway.url + path)
        await expect(page.get_by_text(SHOWN).first).to_be_attached(timeout=SHOWN_WITHIN_MS)
        await context.close()

        assert f"{gateway.url}/docs/openapi.json" in asked
        assert [url for url in asked if not url.startswith((f"{gateway.url}/docs", "data:"))] == []
        assert [text for kind, text in said if kind in {"error", "warning"}] == []


def _heard(page: Page) -> tuple[list[str], list[tuple[str, str]]]:
    """Return what fills with the addresses that a page asks for, and with what is said about it."""
    asked: list[str] = []
    said: list[tuple[str, str]] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append((message.type, message.text)))
    return asked, said


@asynccontextmanager
async def _neighbour(gateway: Gateway, **settings: str) -> AsyncIterator[httpx.AsyncClient]:
    """Run a further app with other settings, and yield a client of it."""
    program, url = gateway.neighbour(**settings)
    program.start()
    try:
        async with gateway.client(url=url) as client:
            await wait_for(functools.partial(_is_ready, client), within_s=60)
            yield client
    finally:
        await program.stop()


async def _is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
