"""Saying in Redis, for operators, what this process has to do with each backend."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import structlog
from redis.exceptions import RedisError

from app.gateway.catalogue import Catalogue
from app.gateway.cooldown import Cooldown
from app.gateway.upstream.adapter import BackendUpstream
from db.redis.backend_board import BackendBoard, BackendReport

REPORT_INTERVAL_S: Final = 1.0

_log = structlog.get_logger()


class BackendReports:
    """Reports every second, and at once after each new model table."""

    def __init__(
        self,
        board: BackendBoard,
        *,
        upstreams: Mapping[str, BackendUpstream],
        catalogue: Catalogue,
        cooldown: Cooldown,
    ) -> None:
        self._board = board
        self._upstreams = upstreams
        self._catalogue = catalogue
        self._cooldown = cooldown
        self._news = asyncio.Event()

    def changed(self) -> None:
        """Report soon."""
        self._news.set()

    def now(self) -> BackendReport:
        """Return what there is to say."""
        return BackendReport(
            in_flight={name: each.in_flight for name, each in self._upstreams.items() if each.in_flight},
            cooling=tuple(sorted(self._cooldown.cooling())),
            drained=tuple(sorted(self._catalogue.index.drained)),
        )

    async def run(self) -> None:
        """Report, until cancelled; the last word is that this process goes away."""
        try:
            while True:
                self._news.clear()
                await self._report()
                with suppress(TimeoutError):
                    async with asyncio.timeout(REPORT_INTERVAL_S):
                        await self._news.wait()
        finally:
            with suppress(RedisError, OSError):
                await self._board.withdraw()

    async def _report(self) -> None:
        try:
            await self._board.report(self.now())
        except (RedisError, OSError) as exc:
            _log.debug("backend_report_failed", error=type(exc).__name__)
