"""Asking the worker to look at the backends now, because a request just found one missing."""

import asyncio
from typing import Final

import structlog
from redis.exceptions import RedisError

from db.redis.queue import GatewayQueue
from domain.jobs import DISCOVERY_POLL

MIN_INTERVAL_S: Final = 1.0

_log = structlog.get_logger()


class EarlyPoll:
    """Orders `discovery.poll` off the request path, at most once a second however many requests ask."""

    def __init__(self, queue: GatewayQueue) -> None:
        self._queue = queue
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
            await asyncio.sleep(MIN_INTERVAL_S)
