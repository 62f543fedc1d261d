"""SAQ's worker with the repairs it needs: a quick stop, and quiet upkeep while Redis is away."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import structlog
from redis.exceptions import RedisError
from saq.types import Context
from saq.worker import Worker

from db.redis.job_board import JobBoard
from db.redis.queue import GatewayQueue
from worker.job_table import EndLog, FailureLog, SaqFunction

CONCURRENCY: Final = 8
DEQUEUE_S: Final = 1.0

# Jobs may be run again, so a long one is cut short rather than holding up the stop.
STOP_GRACE_S: Final = 5

_SCHEDULE_S: Final = 1
_ABORT_S: Final = 1
_SWEEP_S: Final = 2

# How long a sweep waits for the worker of a silent job to confirm that it let go; it has mostly died.
_LET_GO_S: Final = 1.5

_INFO_S: Final = 10

_log = structlog.get_logger()


class GatewayWorker(Worker[Context]):
    """Runs the jobs of one process until SIGTERM or SIGINT, and then at most `STOP_GRACE_S` longer.

    `on_start` is called once signals are listened to and before the first job; how jobs end is noted on the board.
    """

    def __init__(
        self,
        queue: GatewayQueue,
        functions: Collection[tuple[str, SaqFunction]],
        *,
        board: JobBoard,
        on_start: SaqFunction,
    ) -> None:
        super().__init__(
            queue,
            functions,
            concurrency=CONCURRENCY,
            dequeue_timeout=DEQUEUE_S,
            startup=on_start,
            after_process=[FailureLog().note, EndLog(board).note],
            shutdown_grace_period_s=STOP_GRACE_S,
        )

    async def upkeep(self) -> list[asyncio.Task[None]]:
        """Start what keeps the queue in order. Unlike SAQ's own tasks these end when the worker stops."""
        return [
            asyncio.create_task(self._keep(lambda: self.abort(_ABORT_S), _ABORT_S)),
            asyncio.create_task(self._keep(lambda: self.schedule(_SCHEDULE_S), _SCHEDULE_S)),
            asyncio.create_task(self._keep(lambda: self.queue.sweep(_SWEEP_S, _LET_GO_S), _SWEEP_S)),
            asyncio.create_task(self._keep(lambda: self.worker_info(_INFO_S * 2), _INFO_S)),
        ]

    async def _keep(self, step: Callable[[], Awaitable[object]], pause_s: float) -> None:
        while not self.event.is_set():
            # The queue itself tells the log that Redis is away.
            with contextlib.suppress(RedisError, OSError):
                await step()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self.event.wait()

    async def process(self) -> bool:
        """Run the next job, if there is one."""
        try:
            return await super().process()
        except (RedisError, OSError) as exc:
            # The run itself is over; the sweep of some worker repeats it, as nobody wrote down how it ended.
            _log.warning("job_end_not_recorded", error=type(exc).__name__)
            return False
