"""The least that news from Postgres to many processes can take: one program relays, others listen.

`Floor` runs them as `python -m bench.revocation_floor relay|subscriber DATABASE_URL REDIS_URL CHANNEL`.
"""

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence

import asyncpg
import uvloop
from pydantic import SecretStr

from bench.processes import REPOSITORY
from db.redis.connection import connect_patient

CHANNEL = "bench_floor"


class Floor:
    """A relay and its subscribers, programs of their own, which write down when they heard."""

    def __init__(
        self, subscribers: Sequence[asyncio.subprocess.Process], relay: asyncio.subprocess.Process
    ) -> None:
        self._subscribers = subscribers
        self._relay = relay
        self._number = 0

    @classmethod
    async def start(cls, environ: Mapping[str, str], *, subscribers: int) -> "Floor":
        """Start them; they hear each other when this returns."""
        listening = [await _program("subscriber", environ) for _ in range(subscribers)]
        return cls(listening, await _program("relay", environ))

    async def round(self, sql: asyncpg.Connection) -> float:
        """Notify once; return the seconds until the last subscriber had heard."""
        self._number += 1
        await sql.execute("SELECT pg_notify($1, $2)", CHANNEL, str(self._number))
        committed = time.monotonic()
        heard = [float(await _line(subscriber)) for subscriber in self._subscribers]
        return max(heard) - committed

    async def stop(self) -> None:
        """End them."""
        for program in (*self._subscribers, self._relay):
            program.terminate()
            await program.wait()


async def _program(role: str, environ: Mapping[str, str]) -> asyncio.subprocess.Process:
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.revocation_floor", role),
        *(environ["DATABASE_URL"], environ["REDIS_URL"], CHANNEL),
        stdout=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
    )
    await _line(program)
    return program


async def _line(program: asyncio.subprocess.Process) -> bytes:
    if program.stdout is None or not (line := await program.stdout.readline()):
        raise RuntimeError("a program of the floor ended early")
    return line


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
