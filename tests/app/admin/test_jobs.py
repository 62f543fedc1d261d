"""What the workers do, over HTTP."""

from datetime import UTC, datetime, timedelta
from typing import Any

import redis

from domain.jobs import EVERY_JOB
from tests.support.admin import Desk, wait_for
from tests.support.gateway import Gateway


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


async def test_what_another_release_noted_costs_only_itself(desk: Desk, gateway: Gateway) -> None:
    with redis.Redis.from_url(gateway.redis_url) as client:
        client.hset("nng:jobs:ended", "foreign", b'{"canary": 1}')
        try:
            reply = await desk.get("/jobs")
        finally:
            client.hdel("nng:jobs:ended", "foreign")

    assert reply.json()["redisReachable"]
    assert "canary" not in reply.text
