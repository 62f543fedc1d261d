"""The least that news from Postgres to many processes can take: one program relays, others listen.

Run by `bench.revocation` as `python -m bench.revocation_floor relay|subscriber DATABASE_URL REDIS_URL CHANNEL`.
"""

import asyncio
import sys
import time

import asyncpg
import uvloop
from pydantic import SecretStr

from db.redis.connection import connect_patient


async def relay(database_url: str, redis_url: str, channel: str) -> None:
    """Publish every notification, for ever."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener = await asyncpg.connect(database_url)
    await listener.add_listener(channel, lambda *call: heard.put_nowait(str(call[-1])))
    async with connect_patient(SecretStr(redis_url)) as redis:
        print("ready", flush=True)
        while True:
            await redis.publish(channel, await heard.get())


async def subscriber(_: str, redis_url: str, channel: str) -> None:
    """Print the monotonic time of each message, for ever."""
    async with connect_patient(SecretStr(redis_url)) as redis, redis.pubsub() as subscription:
        await subscription.subscribe(channel)
        while True:
            message = await subscription.get_message(timeout=5.0)
            if message is not None:
                ready = message["type"] == "subscribe"
                print("ready" if ready else time.monotonic(), flush=True)


if __name__ == "__main__":
    role, *where = sys.argv[1:]
    uvloop.run({"relay": relay, "subscriber": subscriber}[role](*where))
