"""Which app processes live: whoever shares a limit while Redis is away has to know among how many.

Each process says every other second in Redis that it lives (`RevocationNews.report`). What was heard is kept here, so
that neither an outage nor a Redis that lost its memory makes this process believe it is alone.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import structlog
from redis.exceptions import RedisError

from domain.shares import Shares

LOOK_INTERVAL_S: Final = 1.0
GONE_AFTER_S: Final = 6.0
"""A process that was not seen for this long, although Redis could be asked, is gone."""

_log = structlog.get_logger()


class LiveProcesses:
    """The app processes that this one believes to live, itself among them.

    Parameters
    ----------
    own
        The name under which this process reports.
    seen
        Returns the names that Redis holds; raises `RedisError` or `OSError` while it is away.
    now
        Monotonic seconds.
    """

    def __init__(
        self,
        own: str,
        *,
        seen: Callable[[], Awaitable[Iterable[str]]],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.own = own
        self._seen = seen
        self._now = now
        self._known: dict[str, float] = {}
        self._looked_at: float | None = None
        self._away = False
        self.shares = Shares.of(own, ())

    @property
    def names(self) -> frozenset[str]:
        """Everybody's names, this process's own included."""
        return frozenset((self.own, *self._known))

    @property
    def are_known(self) -> bool:
        """Whether Redis has ever been asked: before that, nobody knows among how many a limit is shared."""
        return self._looked_at is not None

    async def follow(self) -> None:
        """Look every second, for ever."""
        while True:
            try:
                await self.look()
            except (RedisError, OSError) as exc:
                if not self._away:
                    _log.warning("live_processes_unreadable", error=type(exc).__name__, known=len(self.names))
                self._away = True
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def look(self) -> None:
        """Ask Redis once.

        Raises
        ------
        RedisError, OSError
            It is away; what was known before holds on.
        """
        found = await self._seen()
        now = self._now()
        if self._looked_at is not None and now - self._looked_at > 2 * LOOK_INTERVAL_S:
            # Nobody could be seen in the meantime, and nobody could report.
            absent_s = now - self._looked_at
            self._known = {name: at + absent_s for name, at in self._known.items()}
        self._looked_at, self._away = now, False
        self._known.update(dict.fromkeys(found, now))
        self._known = {name: at for name, at in self._known.items() if now - at <= GONE_AFTER_S}
        self.shares = Shares.of(self.own, self._known)

    def share(self, limit: int) -> int:
        """Return what this process may use of a limit by itself."""
        return self.shares.share(limit)
