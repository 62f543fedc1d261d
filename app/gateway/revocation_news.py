"""Hearing of revocations through Redis, milliseconds after their commit, and confirming them there."""

import asyncio
from typing import Final

import msgspec
import structlog
from redis.exceptions import RedisError

from app.gateway.revocations import RevocationFollower
from db.redis.revocation_channel import Announcement, RevocationNews

RECONNECT_PAUSE_S: Final = 1.0
REPORT_INTERVAL_S: Final = 2.0

_log = structlog.get_logger()


class RevocationHearer:
    """Takes announcements to the follower. Without Redis the follower's own poll keeps its bound of 2 s."""

    def __init__(self, news: RevocationNews, follower: RevocationFollower) -> None:
        self._news = news
        self._follower = follower
        self._failing = False

    async def hear(self) -> None:
        """Listen for ever; reconnects after a pause."""
        while True:
            try:
                async with self._news.announcements() as announcements:
                    async for announcement in announcements:
                        self._failing = False
                        await self._act(announcement)
            except (RedisError, OSError, msgspec.MsgspecError) as exc:
                if not self._failing:
                    _log.warning("revocation_news_unreachable", error=type(exc).__name__)
                self._failing = True
            await asyncio.sleep(RECONNECT_PAUSE_S)

    async def _act(self, announcement: Announcement | None) -> None:
        if announcement is None or not self._follower.take(
            announcement.after, announcement.seq, announcement.rows
        ):
            await self._follower.poll_safely()
        await self._news.report(self._follower.seq)

    async def report(self) -> None:
        """Say every other second that this process lives and how far it has acted, for ever."""
        while True:
            try:
                await self._news.report(self._follower.seq)
            except (RedisError, OSError) as exc:
                _log.debug("revocation_report_failed", error=type(exc).__name__)
            await asyncio.sleep(REPORT_INTERVAL_S)
