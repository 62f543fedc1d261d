"""Hearing Postgres say that something was revoked, and ordering the fanout at once.

A notification is lost while nobody listens, so every (re)connection orders a fanout by itself, and the job's own
rhythm finds the rest. The listening connection goes to Postgres directly: a pooler would swallow notifications.
"""

import asyncio
import time
from typing import Final

import asyncpg
import structlog
from redis.exceptions import RedisError

from db.redis.queue import GatewayQueue
from domain.jobs import REVOCATION_FANOUT

CHANNEL: Final = "key_revoked"
APPLICATION_NAME: Final = "neuronetz-gateway listener"
CONNECT_TIMEOUT_S: Final = 5.0
LOOK_INTERVAL_S: Final = 5.0
RECONNECT_PAUSE_S: Final = 1.0
ORDER_AGAIN_S: Final = 0.002
ORDER_FOR_S: Final = 2.0

_log = structlog.get_logger()


class RevocationListener:
    """Keeps one LISTEN connection and orders `revocation.fanout` whenever it hears something."""

    def __init__(self, dsn: str, queue: GatewayQueue) -> None:
        self._dsn = dsn.replace("postgresql+asyncpg://", "postgresql://", 1)
        self._queue = queue
        self._heard = asyncio.Event()
        self._failing = False

    async def run(self) -> None:
        """Listen for ever. A connection that breaks is replaced at once; while Postgres is away, every second."""
        while True:
            try:
                await self._listen()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
                if not self._failing:
                    _log.warning("revocation_listener_disconnected", error=type(exc).__name__)
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
            await connection.add_listener(CHANNEL, lambda *_: self._heard.set())
            if self._failing:
                _log.info("revocation_listener_connected")
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
        """Order a fanout that begins after this moment: one that runs already may have read too early."""
        deadline = time.monotonic() + ORDER_FOR_S
        try:
            while not await self._queue.order(REVOCATION_FANOUT) and time.monotonic() < deadline:  # noqa: ASYNC110 - the run that is in the way is another process's
                await asyncio.sleep(ORDER_AGAIN_S)
        except (RedisError, OSError) as exc:
            _log.warning("revocation_fanout_not_ordered", error=type(exc).__name__)
