"""Asking the worker to look at the backends now, because a request just found one missing."""

import asyncio
from typing import Final, Protocol

import structlog
from redis.exceptions import RedisError

from domain.jobs import DISCOVERY_POLL, JobOrder

MIN_INTERVAL_S: Final = 1.0

_log = structlog.get_logger()


class TakesOrders(Protocol):
    """The job queue, as far as it matters here."""

    async def order(self, order: JobOrder) -> bool:
        """Ask for a job; raises RedisError or OSError when the queue is out of reach."""


class EarlyPoll:
    """Orders `discovery.poll` off the request path, at most once a second however many requests ask."""

    def __init__(self, queue: TakesOrders, *, min_interval_s: float = MIN_INTERVAL_S) -> None:
        self._queue = queue
        self._min_interval_s = min_interval_s
        self._asked = asyncio.Event()

    def request(self) -> None:
        """Ask for a poll soon. Never waits."""
        self._asked.set()

    async def run(self) -> None:
        """Place the orders, for ever."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self._queue.order(DISCOVERY_POLL)
            except (RedisError, OSError) as exc:
                _log.debug("early_poll_not_ordered", error=type(exc).__name__)
            await asyncio.sleep(self._min_interval_s)
