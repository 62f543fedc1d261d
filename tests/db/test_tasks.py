"""Tasks end when they are told to, also those that talk to Redis without a pause."""

import asyncio

from pydantic import SecretStr

from db.redis.connection import connect_patient
from db.tasks import end
from tests.support.counts import count


async def test_tasks_that_talk_to_redis_end(redis_url: str) -> None:
    async with connect_patient(SecretStr(redis_url)) as redis:

        async def talk() -> None:
            while True:
                await redis.get("a")

        async with asyncio.timeout(30):
            for turns in range(count(25, 2000)):
                talking = asyncio.create_task(talk())
                for _ in range(turns % 25):
                    await asyncio.sleep(0)
                await end(talking)

                assert talking.cancelled()


async def test_a_task_that_lost_its_cancellation_is_told_again() -> None:
    deaf = True

    async def lose_one() -> None:
        nonlocal deaf
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not deaf:
                    raise
                deaf = False

    losing = asyncio.create_task(lose_one())
    await asyncio.sleep(0)
    await end(losing)

    assert losing.cancelled()


async def test_what_ended_before_keeps_its_result() -> None:
    ended = asyncio.create_task(asyncio.sleep(0, "done"))
    await ended
    await end(ended)

    assert ended.result() == "done"
