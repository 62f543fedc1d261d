"""How an order becomes a run: our own small table of jobs, and the functions SAQ is given for it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog
from redis.exceptions import RedisError
from saq.job import Job
from saq.types import Context

from db.redis.job_board import JobBoard, JobRun
from domain.jobs import JobOrder

# A beat that is under way when the run ends gets this long, so that it cannot overtake the end in Redis.
_LAST_BEAT_S: Final = 1.0

_log = structlog.get_logger()

SaqFunction = Callable[[Context], Awaitable[None]]


class JobSpec(msgspec.Struct, frozen=True):
    """One job this process runs.

    `repeatable` says why running it twice does no harm: a queue can only promise "at least once".
    `every_s` is the rhythm in which workers order it by themselves.
    """

    order: JobOrder
    run: Callable[[], Awaitable[object]]
    repeatable: str
    every_s: float


def saq_function(spec: JobSpec) -> tuple[str, SaqFunction]:
    """Return the job's stable name and the function that SAQ calls. It refuses arguments."""

    async def perform(context: Context) -> None:
        async with _beating(context["job"], interval_s=spec.order.heartbeat_s / 3):
            await spec.run()

    return spec.order.name, perform


@contextlib.asynccontextmanager
async def _beating(job: Job, *, interval_s: float) -> AsyncIterator[None]:
    """Tell the queue while the body runs that its worker lives, or a live job would be run again."""
    over = asyncio.Event()

    async def beat() -> None:
        while not await _within(over, interval_s):
            try:
                await job.update()
            except (RedisError, OSError) as exc:
                _log.warning("job_heartbeat_failed", job=job.function, error=type(exc).__name__)

    beats = asyncio.create_task(beat())
    try:
        yield
    finally:
        over.set()
        await asyncio.wait((beats,), timeout=_LAST_BEAT_S)
        beats.cancel()


class FailureLog:
    """Tells the log of failing jobs: once with the whole trace, then one line each, and when it is over."""

    def __init__(self) -> None:
        self._failing: dict[str, str] = {}

    async def note(self, context: Context) -> None:
        """Note how a run ended. SAQ calls it after each."""
        job, failure = context["job"].function, context.get("exception")
        if failure is None:
            if self._failing.pop(job, None) is not None:
                _log.info("job_works_again", job=job)
            return
        error = type(failure).__name__
        _log.error(
            "job_failed", job=job, error=error, exc_info=failure if self._failing.get(job) != error else None
        )
        self._failing[job] = error


class EndLog:
    """Notes in Redis how each job ended last, for operators who ask later than the queue remembers."""

    def __init__(self, board: JobBoard) -> None:
        self._board = board

    async def note(self, context: Context) -> None:
        """Note how a run ended. SAQ calls it after each."""
        job, failure = context["job"], context.get("exception")
        ended_at = datetime.now(UTC)
        run = JobRun(
            outcome=job.status.value,
            started_at=datetime.fromtimestamp(job.started / 1000, UTC) if job.started else ended_at,
            ended_at=ended_at,
            error=None if failure is None else type(failure).__name__,
        )
        try:
            await self._board.ended(job.function, run)
        except (RedisError, OSError) as exc:
            _log.debug("job_end_not_noted", job=job.function, error=type(exc).__name__)


async def _within(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
