"""What admitting a request by limits costs: CPU of the asking process, time in Redis, and how long it waits.

`python -m bench.limiter` starts a Redis of its own. One admission is one `take` and the building of its ask; all
five limits are set for the tenant and for the key, or one for the tenant alone.
"""

import asyncio
import time
from typing import Final
from uuid import UUID, uuid4

import uvloop
from pydantic import SecretStr

from db.redis.limits import LimitStore
from db.redis.multiplex import MultiplexedRedis
from domain.limits import Admitted, Ask, PeriodBounds
from domain.values import KeyId, Limits, RequestId, TenantId
from tests.support.limits import begin
from tests.support.servers import running_valkey

ADMISSIONS: Final = 10_000
WIDE: Final = 10**8
SETS: Final = {
    "ten limits": (Limits(WIDE, WIDE, WIDE, WIDE, WIDE), Limits(WIDE, WIDE, WIDE, WIDE, WIDE)),
    "one limit": (Limits(requests_per_minute=WIDE), Limits()),
}
DAY_S: Final = 86_400


async def measure(redis: MultiplexedRedis, name: str, *, at_once: int) -> None:
    """Print what one admission costs while so many are asked at once."""
    store = LimitStore(redis, process_id="bench")
    tenant_id, key_id = TenantId(uuid4()), KeyId(uuid4())
    tenant, key = SETS[name]
    now = int(time.time())
    day = PeriodBounds(now - 2 * DAY_S, now - 100, now + DAY_S, now + 2 * DAY_S)
    await begin(store, tenant_id)

    async def ask(request_ids: list[UUID]) -> None:
        for request_id in request_ids:
            wanted = Ask(RequestId(request_id), tenant_id, key_id, tenant, key, 10, day, day)
            if type(await store.take(wanted)) is not Admitted:
                raise RuntimeError("the bench ran into its own limits")

    request_ids = [uuid4() for _ in range(ADMISSIONS)]
    await redis.call("CONFIG", "RESETSTAT")
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(ask(request_ids[first::at_once]) for first in range(at_once)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(
        f"{name:10}  {at_once:3} at once:"
        f"  {cpu / ADMISSIONS * 1e6:6.1f} us CPU,"
        f"  {await redis_us(redis):6.1f} us in Redis,"
        f"  {wall / ADMISSIONS * 1e6 * at_once:8.1f} us until the answer"
    )


async def redis_us(redis: MultiplexedRedis) -> float:
    """Return how long Redis took for one script."""
    told = await redis.call("INFO", "commandstats")
    if not isinstance(told, bytes):
        raise TypeError("INFO answers text")
    line = next(line for line in told.decode().splitlines() if line.startswith("cmdstat_evalsha:"))
    return float(line.partition("usec_per_call=")[2].partition(",")[0])


async def run(url: str) -> None:
    """Measure all."""
    redis = MultiplexedRedis(SecretStr(url), timeout_s=5)
    for name in SETS:
        for at_once in (1, 8, 64):
            await measure(redis, name, at_once=at_once)
    await redis.aclose()


if __name__ == "__main__":
    with running_valkey() as valkey:
        uvloop.run(run(valkey.url()))
