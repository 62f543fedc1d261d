"""The dashboard's security, fact by fact, over sockets; what a person sees is in tests/journeys/test_dashboard.py."""

import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import asyncpg
import httpx
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from saq.job import Status

from app.admin.dashboard.sessions import CSRF_COOKIE, SESSION_COOKIE
from db.redis.connection import connect_patient
from db.redis.queue import GatewayJob, GatewayQueue
from domain.jobs import EVERY_JOB, USAGE_PRUNE
from domain.keys import mint
from domain.tenants import Actor
from domain.values import Role
from tests.support.admin import problem, wait_for
from tests.support.gateway import Gateway

ROOT = "/admin/queues"
RUN = f"{ROOT}/api/jobs/{USAGE_PRUNE.name}/run"
BROWSER = {"Accept": "text/html,application/xhtml+xml"}


class Browser:
    """A client that keeps cookies and can be told what the page's script would send."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def log_in(self, key: str, **headers: str) -> httpx.Response:
        return await self.client.post(f"{ROOT}/login", data={"key": key}, headers=BROWSER | headers)

    @property
    def token(self) -> dict[str, str]:
        return {"X-CSRF-Token": self.client.cookies[CSRF_COOKIE]}


@pytest.fixture
async def browser(gateway: Gateway, address: str) -> AsyncIterator[Browser]:
    async with gateway.client() as client:
        client.headers["X-Forwarded-For"] = address
        yield Browser(client)


@pytest.fixture
async def inside(browser: Browser, admin_key: str) -> Browser:
    assert (await browser.log_in(admin_key)).status_code == 303
    return browser


@pytest.fixture
async def redis(gateway: Gateway) -> AsyncIterator[Redis]:
    redis = connect_patient(SecretStr(gateway.redis_url))
    yield redis
    await redis.aclose()


@pytest.fixture
async def queue(redis: Redis) -> AsyncIterator[GatewayQueue]:
    queue = GatewayQueue(redis)
    yield queue
    await queue.disconnect()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def events(sql: asyncpg.Connection, address: str, action: str) -> list[dict[str, Any]]:
    statement = "SELECT * FROM audit_events WHERE address = $1 AND action = $2 ORDER BY at"
    return [dict(row) for row in await sql.fetch(statement, address, action)]


PATHS = ["", "/", "/queues/gateway", "/api/queues", "/api/jobs", "/static/app.js", "/logout", "/nothing"]


@pytest.mark.parametrize("path", PATHS)
async def test_t25_a_browser_without_a_session_is_sent_to_the_login(browser: Browser, path: str) -> None:
    reply = await browser.client.get(ROOT + path, headers=BROWSER)

    assert (reply.status_code, reply.headers["location"], reply.content) == (303, f"{ROOT}/login", b"")


@pytest.mark.parametrize("path", PATHS)
async def test_t25_a_program_without_an_admin_key_gets_the_uniform_401(
    gateway: Gateway, browser: Browser, path: str
) -> None:
    tenant = await gateway.tenant()

    for headers in ({}, bearer(mint(Role.ADMIN).reveal()), tenant.headers, tenant.headers | BROWSER):
        accept = {} if "Accept" in headers else {"Accept": "application/json"}
        reply = await browser.client.get(ROOT + path, headers=headers | accept)
        if "Accept" in headers:
            assert reply.status_code == 401
        else:
            problem(reply, 401, "unauthenticated")


@pytest.mark.parametrize(
    "path", [f"{ROOT}%2F", f"{ROOT}//", "/admin/queues/queues/", "/admin/queuesx", "/admin/%71ueues/"]
)
async def test_there_is_one_spelling_of_each_path(browser: Browser, admin_key: str, path: str) -> None:
    reply = await browser.client.get(path, headers=bearer(admin_key))

    problem(reply, 404, "not-found")


async def test_a_key_opens_a_session_whose_cookies_stay_where_they_belong(
    browser: Browser, admin_key: str
) -> None:
    reply = await browser.log_in(admin_key)

    session, token = reply.headers.get_list("set-cookie")
    assert (reply.status_code, reply.headers["location"]) == (303, f"{ROOT}/")
    assert session.startswith(f"{SESSION_COOKIE}=")
    assert session.split("; ")[1:] == ["Path=/admin/queues", "Max-Age=28800", "SameSite=Strict", "HttpOnly"]
    assert token.split("; ")[1:] == ["Path=/admin/queues", "Max-Age=28800", "SameSite=Strict"]
    assert (await browser.client.get(f"{ROOT}/")).status_code == 200


async def test_over_https_the_cookies_never_leave_it(browser: Browser, admin_key: str) -> None:
    reply = await browser.log_in(admin_key, **{"X-Forwarded-Proto": "https"})

    assert all("; Secure" in cookie for cookie in reply.headers.get_list("set-cookie"))


async def test_redis_knows_neither_a_sessions_id_nor_its_key(
    inside: Browser, admin_key: str, redis: Redis
) -> None:
    session_id = inside.client.cookies[SESSION_COOKIE].encode()
    raw = base64.urlsafe_b64decode(session_id + b"=")

    kept = [name async for name in redis.scan_iter("nng:admin-session:*")]
    values = [await redis.get(name) or b"" for name in kept]

    assert kept
    assert len(raw) == 32
    for secret in (session_id, raw, admin_key.encode(), admin_key.encode()[-30:]):
        assert not any(secret in each for each in (*kept, *values))
    assert all([0 < await redis.ttl(name) <= 28_800 for name in kept])


async def test_each_login_opens_a_session_of_its_own(inside: Browser, admin_key: str) -> None:
    first = inside.client.cookies[SESSION_COOKIE]

    await inside.log_in(admin_key)

    assert inside.client.cookies[SESSION_COOKIE] != first


async def test_a_login_is_an_audit_event_and_says_until_when_the_session_lasts(
    inside: Browser, sql: asyncpg.Connection, admin_key: str, address: str
) -> None:
    (event,) = await events(sql, address, "admin.login")

    key_id = await sql.fetchval("SELECT id FROM api_keys WHERE prefix = $1", admin_key[:13])
    assert (event["actor"], event["subject"]) == (admin_key[:13], f"key:{key_id}")
    until = datetime.fromisoformat(json.loads(event["after"])["session_until"])
    assert timedelta(0) < event["at"] + timedelta(hours=8, seconds=1) - until < timedelta(seconds=5)
    assert inside.client.cookies[SESSION_COOKIE] not in str(event)


async def test_a_login_that_cannot_be_noted_opens_nothing(
    browser: Browser, sql: asyncpg.Connection, admin_key: str, address: str
) -> None:
    async with sql.transaction():
        await sql.execute("LOCK TABLE audit_events")

        reply = await browser.log_in(admin_key)

    assert (reply.status_code, reply.headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert int(reply.headers["retry-after"]) > 0
    assert not browser.client.cookies
    assert await events(sql, address, "admin.login") == []


async def test_a_wrong_key_is_told_slowed_and_noted_as_everywhere(
    browser: Browser, sql: asyncpg.Connection, address: str, admin_key: str
) -> None:
    wrong = mint(Role.ADMIN).reveal()

    replies = [await browser.log_in(wrong if number else "junk") for number in range(5)]
    slowed = await browser.log_in(admin_key)

    async def noted() -> bool:
        return len(await events(sql, address, "admin.login_failed")) == 6

    await wait_for(noted)
    assert [reply.status_code for reply in replies] == [401] * 5
    assert "This key does not work here." in replies[0].text
    assert slowed.status_code == 429
    assert int(slowed.headers["retry-after"]) > 0
    assert not browser.client.cookies


async def test_a_tenants_key_opens_nothing(gateway: Gateway, browser: Browser) -> None:
    tenant = await gateway.tenant()

    assert (await browser.log_in(tenant.text)).status_code == 401


async def test_another_sites_page_cannot_make_a_browser_guess(
    browser: Browser, sql: asyncpg.Connection, address: str
) -> None:
    reply = await browser.log_in("junk", **{"Sec-Fetch-Site": "cross-site"})

    assert reply.status_code == 403
    assert await events(sql, address, "admin.login_failed") == []


async def test_with_a_cookie_nothing_is_done_without_the_pages_own_token(inside: Browser) -> None:
    for headers in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "0" * 64}):
        for path in (RUN, f"{ROOT}/logout", f"{ROOT}/api/queues/gateway/jobs/usage.prune/retry"):
            problem(await inside.client.post(path, headers=headers), 403, "cross-site")


async def test_a_token_of_another_session_is_none(inside: Browser, admin_key: str) -> None:
    token = inside.token
    await inside.log_in(admin_key)

    problem(await inside.client.post(RUN, headers=token), 403, "cross-site")


async def test_with_the_token_a_job_is_ordered_and_the_log_says_by_whom(
    inside: Browser, sql: asyncpg.Connection, address: str, admin_key: str, queue: GatewayQueue
) -> None:
    before = await queue.job(USAGE_PRUNE.key)

    async def accepted() -> bool:  # it may run at this moment
        return (await inside.client.post(RUN, headers=inside.token)).status_code == 200

    await wait_for(accepted)

    async def ran() -> bool:
        run = await queue.job(USAGE_PRUNE.key)
        return run is not None and run.completed > (before.completed if before else 0)

    await wait_for(ran)
    (event,) = await events(sql, address, "job.run")
    assert (event["actor"], event["subject"]) == (admin_key.rsplit("_", 2)[0], f"job:{USAGE_PRUNE.name}")


async def test_a_program_needs_its_key_and_no_token(browser: Browser, admin_key: str) -> None:
    reply = await browser.client.get(f"{ROOT}/api/jobs", headers=bearer(admin_key))

    assert [each["name"] for each in reply.json()["jobs"]] == [order.name for order in EVERY_JOB]
    assert (await browser.client.post(RUN, headers=bearer(admin_key))).status_code in {200, 409}


async def test_a_revoked_key_ends_its_session_at_once(
    gateway: Gateway, browser: Browser, sql: asyncpg.Connection, address: str
) -> None:
    key = await gateway.admin_key()
    await browser.log_in(key)
    prefix = key.rsplit("_", 2)[0]
    async with gateway.database.unit_of_work(Actor("test")) as work:
        await work.keys(None).revoke(prefix)

    async def ended() -> bool:
        return (await browser.client.get(f"{ROOT}/api/jobs")).status_code == 401

    await wait_for(ended)

    async def noted() -> bool:
        return bool(await events(sql, address, "admin.login_failed"))

    await wait_for(noted)
    (event,) = await events(sql, address, "admin.login_failed")
    assert (event["actor"], '"revoked"' in event["after"]) == (prefix, True)


async def test_a_session_ends_where_its_key_may_not_be_used(
    gateway: Gateway, browser: Browser, address: str
) -> None:
    async with gateway.database.unit_of_work(Actor("test")) as work:
        issued = await work.keys(None).create(
            "bound", peppers=gateway.peppers, allowed_networks=(ip_network(address),)
        )
    await browser.log_in(issued.minted.reveal())
    at_home = await browser.client.get(f"{ROOT}/api/jobs")

    elsewhere = await browser.client.get(f"{ROOT}/api/jobs", headers={"X-Forwarded-For": "203.0.113.9"})

    assert (at_home.status_code, elsewhere.status_code) == (200, 401)
    assert (await browser.client.get(f"{ROOT}/api/jobs")).status_code == 401


async def test_who_logs_out_is_out(inside: Browser) -> None:
    cookies = dict(inside.client.cookies)

    left = await inside.client.post(f"{ROOT}/logout", headers=inside.token)

    assert (left.status_code, dict(inside.client.cookies)) == (204, {})
    inside.client.cookies.update(cookies)
    problem(await inside.client.get(f"{ROOT}/api/jobs"), 401, "unauthenticated")


@pytest.mark.parametrize("path", ["/login", "/", "/api/jobs", "/static/pico.min.css", "/nothing"])
async def test_every_answer_is_nobodys_to_keep_frame_or_script(inside: Browser, path: str) -> None:
    headers = (await inside.client.get(ROOT + path)).headers

    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert (policy["default-src"], policy["script-src"], policy["frame-ancestors"]) == (
        "'none'",
        "'self'",
        "'none'",
    )
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")


@pytest.mark.parametrize("name", ["app.js", "snabbdom.js", "dashboard.js", "pico.min.css"])
async def test_files_are_local_whole_and_compressed_only_where_asked(inside: Browser, name: str) -> None:
    packed = await inside.client.get(f"{ROOT}/static/{name}", headers={"Accept-Encoding": "gzip"})
    plain = await inside.client.get(f"{ROOT}/static/{name}", headers={"Accept-Encoding": "identity"})

    assert (packed.headers["content-encoding"], "content-encoding" in plain.headers) == ("gzip", False)
    assert packed.content == plain.content
    assert plain.headers["content-type"].count("charset") == 1
    assert len(plain.content) > 1000


async def test_of_a_job_neither_arguments_nor_result_are_shown(inside: Browser, queue: GatewayQueue) -> None:
    job = GatewayJob(
        function="canary.function", key="canary", kwargs={"secret": "canary-argument"}, queue=queue
    )
    job.result, job.meta = "canary-result", {"x": "canary-meta"}
    await queue.redis.set(job.id, queue.serialize(job))

    shown = await inside.client.get(f"{ROOT}/api/queues/gateway/jobs/canary")

    assert shown.json()["job"]["kwargs"] == "1, not shown"
    for canary in ("canary-argument", "canary-result", "canary-meta", "secret"):
        assert canary not in shown.text


async def test_only_a_run_that_did_not_succeed_is_repeated(
    inside: Browser, queue: GatewayQueue, sql: asyncpg.Connection, address: str
) -> None:
    async def completed() -> bool:
        run = await queue.job(USAGE_PRUNE.key)
        return run is not None and run.completed > 0

    await queue.order(USAGE_PRUNE)
    await wait_for(completed)
    path = f"{ROOT}/api/queues/gateway/jobs/{USAGE_PRUNE.key}/retry"
    problem(await inside.client.post(path, headers=inside.token), 409, "conflict")
    failed = GatewayJob(function=USAGE_PRUNE.name, key=USAGE_PRUNE.key, queue=queue)
    failed.status, failed.completed = Status.FAILED, int(datetime.now(UTC).timestamp() * 1000)
    await queue.redis.set(failed.id, queue.serialize(failed))

    reply = await inside.client.post(path, headers=inside.token)

    assert reply.status_code == 200
    assert [each["subject"] for each in await events(sql, address, "job.retry")] == [
        f"job:{USAGE_PRUNE.name}"
    ]
    await wait_for(completed)


@pytest.mark.parametrize(
    "path",
    [
        "/api/jobs/nothing/run",
        "/api/queues/gateway/jobs/nothing/retry",
        "/api/queues/other/jobs/usage.prune/abort",
    ],
)
async def test_what_does_not_exist_is_a_404(inside: Browser, path: str) -> None:
    problem(await inside.client.post(ROOT + path, headers=inside.token), 404, "not-found")
