"""Hearing Postgres say that something was revoked, and ordering the fanout at once.

A notification is lost while nobody listens, so every (re)connection orders a fanout by itself, and the job's own
rhythm finds the rest. The listening connection goes to Postgres directly: a pooler would swallow notifications.
"""

import asyncio
from typing import Final

import asyncpg
import structlog
from redis.exceptions import RedisError

from db.redis.queue import GatewayQueue
from domain.jobs import REVOCATION_FANOUT

CHANNEL: Final = "key_revoked"
CONNECT_TIMEOUT_S: Final = 5.0
LOOK_INTERVAL_S: Final = 5.0
RECONNECT_PAUSE_S: Final = 1.0
ORDER_AGAIN_S: Final = 0.005
ORDER_ATTEMPTS: Final = 400

_log = structlog.get_logger()


class RevocationListener:
    """Keeps one LISTEN connection and orders `revocation.fanout` whenever it hears something."""

    def __init__(self, dsn: str, queue: GatewayQueue) -> None:
        self._dsn = dsn.replace("postgresql+asyncpg://", "postgresql://", 1)
        self._queue = queue
        self._heard = asyncio.Event()
        self._failing = False

    async def run(self) -> None:
        """Listen for ever; while Postgres is away, try again every second."""
        while True:
            try:
                await self._listen()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
                if not self._failing:
                    _log.warning("revocation_listener_disconnected", error=type(exc).__name__)
                self._failing = True
            await asyncio.sleep(RECONNECT_PAUSE_S)

    async def _listen(self) -> None:
        connection = await asyncpg.connect(self._dsn, timeout=CONNECT_TIMEOUT_S)
        try:
            connection.add_termination_listener(lambda _: self._heard.set())
            await connection.add_listener(CHANNEL, lambda *_: self._heard.set())
            if self._failing:
                _log.info("revocation_listener_connected")
            self._failing = False
            self._heard.set()
            while not connection.is_closed():
                await self._wait()
                if self._heard.is_set():
                    self._heard.clear()
                    await self._order()
                else:
                    await connection.execute("SELECT 1", timeout=CONNECT_TIMEOUT_S)
        finally:
            connection.terminate()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(LOOK_INTERVAL_S):
                await self._heard.wait()
        except TimeoutError:
            return

    async def _order(self) -> None:
        """Order a fanout that begins after this moment: one that runs already may have read too early."""
        try:
            for _ in range(ORDER_ATTEMPTS):
                if await self._queue.order(REVOCATION_FANOUT):
                    return
                await asyncio.sleep(ORDER_AGAIN_S)
        except (RedisError, OSError) as exc:
            _log.warning("revocation_fanout_not_ordered", error=type(exc).__name__)
