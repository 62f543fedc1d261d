"""What dead processes hold of the limits comes back, and doing that twice gives nothing twice."""

import time
from collections.abc import AsyncIterator
from functools import partial

import anyio
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from structlog.testing import capture_logs

from db.redis.connection import connect_patient
from db.redis.limit_recounts import GRACE_S, LimitLeases
from db.redis.limits import LimitStore
from db.redis.multiplex import MultiplexedRedis
from db.redis.revocation_channel import (
    LATELY_S,
    LOOKS_APART_S,
    LOOKS_KEY,
    PROCESS_TTL_S,
    SEEN_KEY,
    SEEN_SINCE_KEY,
    RevocationNews,
    certainly_live,
)
from domain.limits import Refused
from domain.values import Limits
from tests.support.limits import Customer, admitted, age_reservations, begin
from worker.jobs.leases import sweep
from worker.main import SWEEP_INTERVAL_S


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_patient(SecretStr(redis_url)) as client:
        await client.set(SEEN_SINCE_KEY, int(time.time()) - 60)
        yield client


@pytest.fixture
async def scripts(redis_url: str) -> AsyncIterator[MultiplexedRedis]:
    redis = MultiplexedRedis(SecretStr(redis_url), timeout_s=5)
    yield redis
    await redis.aclose()


async def busy(scripts: MultiplexedRedis, *processes: str, customers: int = 1) -> list[Customer]:
    """Return tenants of which each process runs one request, and no room is left for another."""
    made = [Customer(tenant=Limits(concurrency=len(processes))) for _ in range(customers)]
    for one in made:
        await begin(LimitStore(scripts, process_id=""), one.tenant_id, one.spent())
        for process in processes:
            await admitted(LimitStore(scripts, process_id=process), one.ask())
        await age_reservations(scripts, one, GRACE_S)
    return made


async def passes(redis: Redis, *, seconds: float) -> None:
    """Make everything that processes and sweeps have left behind that much older."""
    script = """
    local seen = redis.call('HGETALL', KEYS[1])
    for i = 1, #seen, 2 do
      local seq, at = string.match(seen[i + 1], '^(-?%d+):(%d+)$')
      redis.call('HSET', KEYS[1], seen[i], string.format('%s:%.0f', seq, at - ARGV[1]))
    end
    local packed = redis.call('GET', KEYS[2])
    if packed then
      local looks = cmsgpack.unpack(packed)
      looks.at = looks.at - ARGV[1]
      redis.call('SET', KEYS[2], cmsgpack.pack(looks))
    end
    """
    await redis.register_script(script)(keys=[SEEN_KEY, LOOKS_KEY], args=[seconds])


async def test_only_processes_that_do_not_report_lose_what_they_hold(
    redis: Redis, scripts: MultiplexedRedis
) -> None:
    (one,) = await busy(scripts, "alive", "dead")
    await RevocationNews(redis, process_id="alive").report(1)

    assert await sweep(LimitLeases(scripts), partial(certainly_live, redis)) == 1
    left = (await admitted(LimitStore(scripts, process_id="alive"), one.ask())).states[0].remaining
    assert left == 0


async def test_a_process_that_says_goodbye_is_not_waited_for(redis: Redis, scripts: MultiplexedRedis) -> None:
    await busy(scripts, "leaving")
    news = RevocationNews(redis, process_id="leaving")
    await news.report(1)
    await news.withdraw()

    assert await sweep(LimitLeases(scripts), partial(certainly_live, redis)) == 1


async def test_a_redis_that_forgot_who_lives_takes_nothing_from_anybody(
    redis: Redis, scripts: MultiplexedRedis
) -> None:
    await busy(scripts, "alive")
    await redis.delete(SEEN_SINCE_KEY)
    for _ in range(2):
        assert await sweep(LimitLeases(scripts), partial(certainly_live, redis)) == 0

    await redis.decrby(SEEN_SINCE_KEY, int(PROCESS_TTL_S) + 1)
    assert await sweep(LimitLeases(scripts), partial(certainly_live, redis)) == 1


async def test_who_could_not_report_while_redis_was_away_is_not_taken_for_dead(
    redis: Redis, scripts: MultiplexedRedis
) -> None:
    """It was there, with its data, at the last look; now it has not been able to say anything for long."""
    (one,) = await busy(scripts, "alive")
    news = RevocationNews(redis, process_id="alive")
    await news.report(1)
    assert await sweep(LimitLeases(scripts), partial(certainly_live, redis)) == 0
    await passes(redis, seconds=60)

    assert await sweep(LimitLeases(scripts), partial(certainly_live, redis)) == 0
    await news.report(1)
    await passes(redis, seconds=LOOKS_APART_S)
    assert await sweep(LimitLeases(scripts), partial(certainly_live, redis)) == 0
    assert isinstance(await LimitStore(scripts, process_id="alive").take(one.ask()), Refused)


async def test_who_is_missing_at_two_looks_in_a_row_is_dead(redis: Redis, scripts: MultiplexedRedis) -> None:
    await busy(scripts, "dead")
    await RevocationNews(redis, process_id="dead").report(1)
    assert await sweep(LimitLeases(scripts), partial(certainly_live, redis)) == 0
    await passes(redis, seconds=int(PROCESS_TTL_S) + 1)
    for _ in range(2):  # a look that follows at once, by whomever, is no second one
        assert await sweep(LimitLeases(scripts), partial(certainly_live, redis)) == 0
    await passes(redis, seconds=LOOKS_APART_S)

    assert await sweep(LimitLeases(scripts), partial(certainly_live, redis)) == 1


async def test_every_tenant_is_swept(redis: Redis, scripts: MultiplexedRedis) -> None:
    await busy(scripts, "dead", "gone", customers=5)

    with capture_logs() as logs:
        assert await sweep(LimitLeases(scripts), partial(certainly_live, redis)) == 10
    assert [(log["event"], log["requests"]) for log in logs] == [("leases_swept", 10)]


async def test_two_sweeps_at_once_give_everything_back_once(redis: Redis, scripts: MultiplexedRedis) -> None:
    await busy(scripts, "dead", "gone", customers=5)
    returned: list[int] = []

    async def run() -> None:
        returned.append(await sweep(LimitLeases(scripts), partial(certainly_live, redis)))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(run)
    assert sum(returned) == 10


async def test_where_nothing_was_ever_limited_there_is_nothing_to_sweep(
    redis: Redis, scripts: MultiplexedRedis
) -> None:
    assert await sweep(LimitLeases(scripts), partial(certainly_live, redis)) == 0


def test_what_a_killed_process_held_is_free_within_fifteen_seconds() -> None:
    assert LOOKS_APART_S <= SWEEP_INTERVAL_S
    missed_once = LATELY_S + 1 + SWEEP_INTERVAL_S
    assert max(missed_once, PROCESS_TTL_S + 1, GRACE_S) + SWEEP_INTERVAL_S + 1 <= 15
