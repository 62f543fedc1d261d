"""What the workers do, over HTTP."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
import redis

from domain.jobs import EVERY_JOB, USAGE_PRUNE, USAGE_ROLL_UP
from tests.support.admin import Desk, problem, wait_for
from tests.support.admin_world import failing
from tests.support.gateway import Gateway

EVENTS = "SELECT action, subject, actor FROM audit_events WHERE address = $1 ORDER BY at, id"


async def jobs_of(desk: Desk) -> dict[str, Any]:
    summary = (await desk.get("/jobs")).json()
    assert summary["redisReachable"]
    return {job["name"]: job for job in summary["jobs"]} | {"": summary}


async def test_every_job_has_run_and_will_run_again(desk: Desk) -> None:
    async def have_run() -> bool:
        found = await jobs_of(desk)
        return all(found[order.name]["lastRun"] for order in EVERY_JOB)

    await wait_for(have_run, within_s=30)
    found = await jobs_of(desk)

    polled = found["discovery.poll"]["lastRun"]
    assert (polled["outcome"], polled["error"]) == ("complete", None)
    assert polled["startedAt"] <= polled["endedAt"]
    daily = datetime.fromisoformat(found["usage.prune"]["nextRunAt"])
    assert timedelta(hours=20) < daily - datetime.now(UTC) <= timedelta(hours=24)
    assert {found[order.name]["state"] for order in EVERY_JOB} <= {"idle", "queued", "active"}
    assert found[""]["workers"] == 1
    assert found[""]["completed"] >= 0


async def test_a_job_is_run_ahead_of_its_time_and_the_audit_log_says_who(
    desk: Desk, sql: asyncpg.Connection
) -> None:
    path = f"/jobs/{USAGE_ROLL_UP.name}"
    await failing(desk, USAGE_ROLL_UP)

    ordered = await desk.post(f"{path}/run")

    async def ran() -> bool:
        return bool((await desk.get(path)).json()["lastRun"]["outcome"] == "complete")

    await wait_for(ran)
    assert (ordered.status_code, ordered.json()["name"]) == (202, USAGE_ROLL_UP.name)
    events = await sql.fetch(EVENTS, desk.address)
    assert [tuple(event) for event in events] == [("job.run", f"job:{USAGE_ROLL_UP.name}", desk.prefix)]


async def test_only_a_job_whose_last_run_failed_is_retried(desk: Desk, sql: asyncpg.Connection) -> None:
    path = f"/jobs/{USAGE_PRUNE.name}"
    await failing(desk, USAGE_PRUNE)

    first = await desk.post(f"{path}/retry")

    async def over() -> bool:
        job = (await desk.get(path)).json()
        return bool(job["lastRun"]["outcome"] == "complete" and job["state"] == "idle")

    await wait_for(over)
    again = await desk.post(f"{path}/retry")
    assert first.status_code == 202
    assert USAGE_PRUNE.name in problem(again, 409, "conflict")["detail"]
    events = await sql.fetch(EVENTS, desk.address)
    assert [event["action"] for event in events] == ["job.retry"]


async def test_a_job_that_waits_already_is_not_ordered_twice(desk: Desk, sql: asyncpg.Connection) -> None:
    path = f"/jobs/{USAGE_PRUNE.name}"
    await failing(desk, USAGE_PRUNE)

    replies = await asyncio.gather(*(desk.post(f"{path}/{how}") for how in ["run", "retry"] * 5))

    taken = [reply for reply in replies if reply.status_code == 202]
    assert taken
    for reply in replies:
        if reply not in taken:
            problem(reply, 409, "conflict")
    assert len(await sql.fetch(EVENTS, desk.address)) == len(taken)


@pytest.mark.parametrize("name", ["usage.rollup", "x" * 200, "%00"])
@pytest.mark.parametrize("how", ["", "/run", "/retry"])
async def test_an_unknown_job_is_not_found(desk: Desk, name: str, how: str) -> None:
    reply = await (desk.post if how else desk.get)(f"/jobs/{name}{how}")

    problem(reply, 404, "not-found")


async def test_what_another_release_noted_costs_only_itself(desk: Desk, gateway: Gateway) -> None:
    with redis.Redis.from_url(gateway.redis_url) as client:
        client.hset("nng:jobs:ended", "foreign", b'{"canary": 1}')
        try:
            reply = await desk.get("/jobs")
        finally:
            client.hdel("nng:jobs:ended", "foreign")

    assert reply.json()["redisReachable"]
    assert "canary" not in reply.text
