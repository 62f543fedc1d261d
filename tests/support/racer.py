"""One process of a race for limits: `python -m tests.support.racer URL TRIES`.

It says `ready`; for each ask it reads, as JSON on one line, it asks the same so many times at once and says how
many of them were admitted.
"""

import asyncio
import sys
from uuid import uuid4

import msgspec
import uvloop
from pydantic import SecretStr

from db.redis.limits import LimitStore
from db.redis.multiplex import MultiplexedRedis
from domain.limits import Admitted, Ask
from domain.values import RequestId


async def race(url: str, tries: int) -> None:
    redis = MultiplexedRedis(SecretStr(url), timeout_s=20)
    store = LimitStore(redis, process_id="racer")
    await redis.call("PING")
    _say("ready")
    while line := await asyncio.to_thread(sys.stdin.readline):
        ask = msgspec.json.decode(line, type=Ask)
        asks = (msgspec.structs.replace(ask, request_id=RequestId(uuid4())) for _ in range(tries))
        answers = await asyncio.gather(*map(store.take, asks))
        _say(str(sum(isinstance(answer, Admitted) for answer in answers)))
    await redis.aclose()


def _say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(race(sys.argv[1], int(sys.argv[2])))
