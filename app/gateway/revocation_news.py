"""Hearing of revocations through Redis, milliseconds after their commit, and confirming them there."""

import asyncio
from contextlib import suppress
from typing import Final
from uuid import UUID

import msgspec
import structlog
from redis.exceptions import RedisError

from app.gateway.recheck import Recheck
from app.gateway.revocations import RevocationFollower
from db.redis.revocation_channel import Announcement, RevocationNews

RECONNECT_PAUSE_S: Final = 1.0
REPORT_INTERVAL_S: Final = 2.0

_log = structlog.get_logger()


class RevocationHearer:
    """Takes announcements to the follower, and confirms what was acted upon, however it became known.

    Without Redis the follower's own poll keeps its bound of 2 s. As the last of the follower's caches, which has
    nothing to forget, this one learns that the others have forgotten.
    """

    def __init__(self, news: RevocationNews, follower: RevocationFollower, recheck: Recheck) -> None:
        follower.add_cache(self)
        self._news = news
        self._follower = follower
        self._recheck = recheck
        self._acted = asyncio.Event()
        self._failing = False

    async def hear(self) -> None:
        """Listen for ever; reconnects after a pause."""
        while True:
            try:
                async with self._news.announcements() as announcements:
                    async for announcement in announcements:
                        if self._failing:
                            _log.info("revocation_news_reachable_again")
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

    def drop_key(self, key_id: UUID, *, ended: bool) -> None:  # noqa: ARG002 - the interface is the caches'
        """Confirm soon, in a task of its own: the next announcement must not wait for an answer to this one's."""
        self._acted.set()

    def drop_tenant(self, tenant_id: UUID, *, ended: bool) -> None:  # noqa: ARG002
        """Confirm soon."""
        self._acted.set()

    def drop_all(self) -> None:
        """Confirm soon."""
        self._acted.set()

    async def report(self) -> None:
        """Say after each change, and every other second, how far this process has acted; for ever.

        It has acted upon a number when the caches have forgotten what was revoked and the streams are cut.
        """
        confirmed = -1
        while True:
            self._acted.clear()
            seq = self._follower.seq
            all_cut = await self._cut(within_s=REPORT_INTERVAL_S)
            if all_cut:
                confirmed = seq
            try:
                await self._news.report(confirmed)
            except (RedisError, OSError) as exc:
                _log.debug("revocation_report_failed", error=type(exc).__name__)
            if all_cut:
                await self._told(within_s=REPORT_INTERVAL_S)

    async def _cut(self, *, within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                await self._recheck.done()
        except TimeoutError:
            return False
        return True

    async def _told(self, *, within_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._acted.wait()
