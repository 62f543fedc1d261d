"""Hearing Postgres say that something was revoked or drained, and ordering the job that spreads it at once.

A notification is lost while nobody listens, so every (re)connection orders the job by itself, and the job's own
rhythm finds the rest. The listening connection goes to Postgres directly: a pooler would swallow notifications.
"""

import asyncio
import time
from typing import Final

import asyncpg
import structlog
from redis.exceptions import RedisError

from db.redis.queue import GatewayQueue
from domain.jobs import JobOrder

APPLICATION_NAME: Final = "neuronetz-gateway listener"
CONNECT_TIMEOUT_S: Final = 5.0
LOOK_INTERVAL_S: Final = 5.0
RECONNECT_PAUSE_S: Final = 1.0
ORDER_AGAIN_S: Final = 0.002
ORDER_FOR_S: Final = 2.0

_log = structlog.get_logger()


class Listener:
    """Keeps one LISTEN connection for one channel and orders a job whenever it hears something.

    Each channel has its own: a job that takes long keeps no other from being ordered.
    """

    def __init__(self, dsn: str, queue: GatewayQueue, *, channel: str, order: JobOrder) -> None:
        self._dsn = dsn.replace("postgresql+asyncpg://", "postgresql://", 1)
        self._queue = queue
        self._channel = channel
        self._job = order
        self._heard = asyncio.Event()
        self._failing = False

    async def run(self) -> None:
        """Listen for ever. A connection that breaks is replaced at once; while Postgres is away, every second."""
        while True:
            try:
                await self._listen()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
                if not self._failing:
                    _log.warning("listener_disconnected", channel=self._channel, error=type(exc).__name__)
                self._failing = True
                await asyncio.sleep(RECONNECT_PAUSE_S)

    async def _listen(self) -> None:
        """Listen until the connection breaks.

        Raises
        ------
        OSError, asyncpg.PostgresError, asyncpg.InterfaceError
            It could not be made, or its end was noticed by a question.
        """
        connection = await asyncpg.connect(
            self._dsn, timeout=CONNECT_TIMEOUT_S, server_settings={"application_name": APPLICATION_NAME}
        )
        try:
            connection.add_termination_listener(lambda _: self._heard.set())
            await connection.add_listener(self._channel, lambda *_: self._heard.set())
            if self._failing:
                _log.info("listener_connected", channel=self._channel)
            self._failing = False
            # Whatever was said before this moment was said to nobody.
            self._heard.set()
            while not connection.is_closed():
                if await self._told():
                    await self._order()
                else:
                    await connection.execute("SELECT 1", timeout=CONNECT_TIMEOUT_S)
        finally:
            connection.terminate()

    async def _told(self) -> bool:
        try:
            async with asyncio.timeout(LOOK_INTERVAL_S):
                await self._heard.wait()
        except TimeoutError:
            return False
        self._heard.clear()
        return True

    async def _order(self) -> None:
        """Order a run that begins after this moment: one that goes on already may have read too early."""
        deadline = time.monotonic() + ORDER_FOR_S
        try:
            while not await self._queue.order(self._job) and time.monotonic() < deadline:  # noqa: ASYNC110 - the run that is in the way is another process's
                await asyncio.sleep(ORDER_AGAIN_S)
        except (RedisError, OSError) as exc:
            _log.warning("heard_job_not_ordered", job=self._job.name, error=type(exc).__name__)
