"""Whether Redis can be asked for places, and how sure it is that everybody hears of what others need to know."""

from collections.abc import Callable
from typing import Final

import structlog
from redis.exceptions import RedisError

from app.gateway.live_processes import LiveProcesses

PATIENCE_S: Final = 0.5
"""A shorter outage only delays: by itself a process does not know what others hold."""
RECALL_S: Final = 0.1
"""What others need to say again what they hold, when they are asked to."""
SLOW_RECALL_S: Final = 1.2
"""The same if they may not hear it, because Redis was out of reach within `UNSETTLED_S`: they speak every second."""
UNSETTLED_S: Final = 3.0

_log = structlog.get_logger()


class Reach:
    """Whether Redis can be asked. While it cannot, each process decides by itself, after a little patience."""

    def __init__(self, processes: LiveProcesses, *, now: Callable[[], float]) -> None:
        self.processes = processes
        self._now = now
        self._away_since: float | None = None
        self._unsettled_at = float("-inf")
        self.is_alone = False

    def reached(self) -> None:
        """Take note that Redis has answered."""
        if self._away_since is None:
            return
        self._away_since = None
        self.disturbed()
        if self.is_alone:
            self.is_alone = False
            _log.info("places_reachable_again")

    def missed(self, error: RedisError) -> None:
        """Take note that Redis has not answered."""
        now = self._now()
        if self._away_since is None:
            self._away_since = now
        if not self.is_alone and now - self._away_since >= PATIENCE_S:
            self.is_alone = True
            known = self.processes.shares.processes if self.processes.are_known else None
            _log.warning("places_unreachable", error=type(error).__name__, processes=known)

    def disturbed(self) -> None:
        """Take note that news may not have arrived."""
        self._unsettled_at = self._now()

    @property
    def recall_s(self) -> float:
        """How long all others may need to say again what they hold."""
        return RECALL_S if self._now() - self._unsettled_at > UNSETTLED_S else SLOW_RECALL_S
