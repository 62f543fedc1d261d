"""A Redis behind a Sentinel while its primary dies: nobody is refused, and every request is booked once."""

import asyncio
import tempfile
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.support.asking import NATIVE_WHOLE
from tests.support.counts import count
from tests.support.gateway import request_id
from tests.support.homes import Homes
from tests.support.limited import limited_key
from tests.support.ollama import SimulatedOllama
from tests.support.sentinels import running_sentinels

BEFORE: Final = 5
DURING: Final = 60
BOOKED_S: Final = 60.0


@pytest.mark.skipif(
    count(1, 0) == 1, reason="it takes half a minute: just soak; tests/db/redis has the short ones"
)
async def test_a_failover_refuses_nobody_and_loses_no_record(homes: Homes) -> None:
    replies: list[httpx.Response] = []
    with (
        tempfile.TemporaryDirectory(prefix="nng-test-") as directory,
        running_sentinels(Path(directory)) as sentinels,
        homes.one(redis_url=sentinels.url) as home,
    ):
        async with home.running(
            SimulatedOllama.start(name="a", models="llama3.2:latest", tokens=4)
        ) as gateway:
            key = await limited_key(gateway, requests_per_minute=10_000)
            async with gateway.client(key) as client:

                async def ask() -> None:
                    replies.append(await client.post(NATIVE_WHOLE.path, json=NATIVE_WHOLE.body()))

                for _ in range(BEFORE):
                    await ask()
                lost = asyncio.create_task(asyncio.to_thread(sentinels.lose_primary))
                for _ in range(DURING):
                    await ask()
                    await asyncio.sleep(0.05)
                await lost
                await gateway.ready()
                await ask()

            assert {reply.status_code for reply in replies} == {httpx.codes.OK}
            rows = await gateway.rows([request_id(reply) for reply in replies], within_s=BOOKED_S)
            assert {row.outcome for row in rows} == {"completed"}
