"""What an operator sees and does in the dashboard, with a real browser."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from playwright.async_api import Browser, Page, Request, expect
from pydantic import SecretStr
from saq.job import Job, Status

from db.audit import AuditTrail
from db.redis.connection import connect_patient
from db.redis.queue import GatewayJob, GatewayQueue
from domain.jobs import USAGE_PRUNE, USAGE_ROLL_UP, JobOrder
from domain.keys import mint
from domain.tenants import Actor, AuditFilter
from domain.values import Role
from tests.support.admin import wait_for
from tests.support.chromium import running_chromium
from tests.support.gateway import Gateway
from tests.support.scenes import CannotRun

ROOT = "/admin/queues"
ADDRESS = "198.18.200.1"
EVERYTHING_S = 30.0

expect.set_options(timeout=EVERYTHING_S * 1000)


class Desk:
    """A browser's page at the dashboard, and what it has asked for and complained about so far."""

    def __init__(self, gateway: Gateway, page: Page) -> None:
        self.url = gateway.url + ROOT
        self.page = page
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.set_default_timeout(EVERYTHING_S * 1000)
        page.on("request", self._note)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)

    def _note(self, request: Request) -> None:
        self.asked.append(request.url)

    async def log_in(self, key: str) -> None:
        await self.page.goto(self.url)
        await self.page.get_by_label("Admin key").fill(key)
        await self.page.get_by_role("button", name="Log in").click()

    async def press(self, order: JobOrder, label: str) -> None:
        await self.page.locator(f'tr[data-job="{order.name}"]').get_by_role("button", name=label).click()

    def foreign(self) -> list[str]:
        """Return what was asked for that is none of the dashboard's."""
        return [url for url in self.asked if not url.startswith((self.url, "data:"))]


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    try:
        async with running_chromium() as browser:
            yield browser
    except CannotRun as reason:
        pytest.skip(str(reason))


@pytest.fixture
async def desk(gateway: Gateway, browser: Browser) -> AsyncIterator[Desk]:
    context = await browser.new_context(extra_http_headers={"X-Forwarded-For": ADDRESS})
    desk = Desk(gateway, await context.new_page())
    yield desk
    await context.close()
    assert desk.foreign() == []


@pytest.fixture
async def admin_key(gateway: Gateway) -> str:
    return await gateway.admin_key()


@pytest.fixture
async def queue(gateway: Gateway) -> AsyncIterator[GatewayQueue]:
    redis = connect_patient(SecretStr(gateway.redis_url))
    queue = GatewayQueue(redis)
    yield queue
    await queue.disconnect()
    await redis.aclose()


def ends(queue: GatewayQueue, order: JobOrder, *, after_ms: int = 0) -> Callable[[], Awaitable[bool]]:
    """Return the question whether a run of this job has succeeded that ended later than this."""

    async def has_ended() -> bool:
        run = await queue.job(order.key)
        return run is not None and run.status is Status.COMPLETE and run.completed > after_ms

    return has_ended


async def settled(queue: GatewayQueue, order: JobOrder) -> Job:
    """Have the job run, as its last run may be forgotten by now, and return the run once it has ended."""
    await queue.order(order)
    await wait_for(ends(queue, order), within_s=EVERYTHING_S)
    run = await queue.job(order.key)
    assert run is not None
    return run


async def test_a_wrong_key_is_told_and_noted(gateway: Gateway, desk: Desk) -> None:
    wrong = mint(Role.ADMIN)

    await desk.log_in(wrong.reveal())

    await expect(desk.page.get_by_role("alert")).to_have_text("This key does not work here.")
    trail = AuditTrail(gateway.database.engine)

    async def noted() -> bool:
        return bool(await trail.newest(AuditFilter("admin", None, wrong.prefix), before=None, limit=1))

    await wait_for(noted, within_s=EVERYTHING_S)


async def test_the_right_key_shows_queue_jobs_and_a_run_without_a_complaint(
    desk: Desk, admin_key: str, queue: GatewayQueue
) -> None:
    await settled(queue, USAGE_ROLL_UP)

    await desk.log_in(admin_key)
    await desk.page.get_by_role("link", name="gateway", exact=True).click()
    await desk.page.locator("#saq").get_by_role("link", name=USAGE_ROLL_UP.key).click()

    await expect(desk.page.locator("#saq hgroup h2")).to_have_text(USAGE_ROLL_UP.key)
    await expect(desk.page.locator("#saq figure")).to_contain_text("complete")
    await expect(desk.page.locator("#jobs")).to_contain_text(USAGE_PRUNE.name)
    assert desk.complaints == []


async def test_run_now_makes_a_job_run(desk: Desk, admin_key: str, queue: GatewayQueue) -> None:
    before = await settled(queue, USAGE_PRUNE)
    await desk.log_in(admin_key)

    await desk.press(USAGE_PRUNE, "Run now")

    await wait_for(ends(queue, USAGE_PRUNE, after_ms=before.completed), within_s=EVERYTHING_S)


async def test_a_failed_run_is_repeated(desk: Desk, admin_key: str, queue: GatewayQueue) -> None:
    before = await settled(queue, USAGE_PRUNE)
    failed = GatewayJob(function=USAGE_PRUNE.name, key=USAGE_PRUNE.key, queue=queue, status=Status.FAILED)
    failed.completed, failed.error = before.completed, "builtins.LookupError"
    await queue.redis.set(failed.id, queue.serialize(failed))
    await desk.log_in(admin_key)
    await desk.page.goto(f"{desk.url}/queues/gateway/jobs/{failed.key}")
    await expect(desk.page.locator("#saq")).to_contain_text("builtins.LookupError")

    await desk.page.locator("#saq").get_by_role("button", name="Retry").click()

    await wait_for(ends(queue, USAGE_PRUNE, after_ms=before.completed), within_s=EVERYTHING_S)


async def test_a_script_that_does_not_send_the_token_does_nothing(desk: Desk, admin_key: str) -> None:
    await desk.log_in(admin_key)
    await expect(desk.page.locator("#jobs tr").first).to_be_visible()

    status = await desk.page.evaluate(
        """path => new Promise(done => {
            const request = new XMLHttpRequest();
            request.onload = () => done(request.status);
            request.open("POST", path);
            request.send();
        })""",
        f"{ROOT}/api/jobs/{USAGE_PRUNE.name}/run",
    )

    assert status == 403


async def test_once_the_key_is_revoked_the_page_is_the_login_again(
    gateway: Gateway, desk: Desk, admin_key: str
) -> None:
    await desk.log_in(admin_key)
    await expect(desk.page.locator("#jobs tr").first).to_be_visible()
    async with gateway.database.unit_of_work(Actor("test")) as work:
        await work.keys(None).revoke(admin_key.rsplit("_", 2)[0])

    await expect(desk.page.get_by_label("Admin key")).to_be_visible()


async def test_who_logs_out_sees_the_login_again(desk: Desk, admin_key: str) -> None:
    await desk.log_in(admin_key)

    await desk.page.get_by_role("button", name="Log out").click()

    await expect(desk.page.get_by_label("Admin key")).to_be_visible()
    await desk.page.goto(desk.url)
    await expect(desk.page.get_by_label("Admin key")).to_be_visible()
