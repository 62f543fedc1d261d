"""Ordering a job every so often, for any number of workers together as often as for one."""

import asyncio
from typing import Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from db.redis.job_board import tick_key
from db.redis.queue import GatewayQueue
from domain.jobs import JobOrder

_PAUSE_S: Final = 1.0
_AGAIN_MS: Final = 1000

_log = structlog.get_logger()


class Ticker:
    """Orders one job every `every_s` seconds.

    A lease in Redis that lasts exactly one interval decides which worker orders next: two workers never
    double the rate, and the second goes on where the first died. The first order of a process does not wait
    for it, as the settings may have changed.
    """

    def __init__(self, order: JobOrder, *, every_s: float, redis: Redis, queue: GatewayQueue) -> None:
        self._order = order
        self._every_ms = max(1, round(every_s * 1000))
        self._redis = redis
        self._queue = queue
        self._lease = tick_key(order.name)
        self._failing = False

    async def run(self) -> None:
        """Order for ever; while Redis is away, try again every second."""
        started = False
        while True:
            try:
                pause_s = await self._tick(wait_for_lease=started)
                started = True
            except (RedisError, OSError) as exc:
                if not self._failing:
                    _log.warning("job_not_ordered", job=self._order.name, error=type(exc).__name__)
                self._failing = True
                pause_s = _PAUSE_S
            await asyncio.sleep(pause_s)

    async def _tick(self, *, wait_for_lease: bool) -> float:
        """Order the job if it is time; return the seconds until it can be time again."""
        if await self._redis.set(self._lease, 1, nx=wait_for_lease, px=self._every_ms):
            return await self._give_order()
        left_ms = await self._redis.pttl(self._lease)
        if left_ms > self._every_ms or left_ms == -1:
            # A worker with other settings took a longer lease; ours counts from now.
            await self._redis.pexpire(self._lease, self._every_ms)
            left_ms = self._every_ms
        return max(left_ms, 1) / 1000

    async def _give_order(self) -> float:
        pause_ms = self._every_ms
        if not await self._queue.order(self._order) and pause_ms > _AGAIN_MS:
            # The job of an earlier order still runs, or died with its worker: look again soon.
            pause_ms = _AGAIN_MS
            await self._redis.pexpire(self._lease, pause_ms)
        if self._failing:
            _log.info("job_ordered_again", job=self._order.name)
        self._failing = False
        return pause_ms / 1000
