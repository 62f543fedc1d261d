"""The job queue: SAQ's Redis queue under our prefix, calm while Redis is away, deaf to what is not a job."""

import asyncio
import contextlib
import dataclasses
import sys
import time
import traceback
from typing import Any, Final

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from saq.job import Job, Status
from saq.queue.redis import PubSubMultiplexer, RedisQueue

from domain.jobs import JobOrder

QUEUE_NAME: Final = "gateway"
_JOB_PREFIX: Final = "nng:job:"
_ABORT_PREFIX: Final = "nng:job-abort:"
_QUEUE_PREFIX: Final = "nng:queue:"

# Without a pause, SAQ asks an absent Redis again at once and burns a core.
_PAUSE_S: Final = 1.0

# How long a finished job stays visible in the dashboard.
_KEEP_S: Final = 600

# How much of a failure is kept for the dashboard.
_OUTLINE_LINES: Final = 60

# SAQ takes every job that lies among the active ones without being marked so for an orphan; but so does each job
# in the moment between its dequeue and its start, and now and then a sweep fell into that moment. Here a sweep
# returns only what the sweep before it, whichever worker's that was, found exactly as it is now: whoever works on
# a job changes it by starting it and then with every beat. Same keys, argument and answer as SAQ's own script.
_SWEEP_SCRIPT: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then return {} end
redis.call('SETEX', KEYS[1], ARGV[1], 1)
local seen = KEYS[1] .. ':seen'
local unchanged, marks = {}, {}
for _, id in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
    local job = redis.call('GET', id)
    local mark = redis.sha1hex(job or '')
    if redis.call('HGET', seen, id) == mark then
        unchanged[#unchanged + 1] = {id, job}
    end
    marks[#marks + 1] = {id, mark}
end
redis.call('DEL', seen)
for _, pair in ipairs(marks) do
    redis.call('HSET', seen, pair[1], pair[2])
end
return unchanged
"""

_log = structlog.get_logger()


class GatewayJob(Job):
    """A job whose keys in Redis carry our prefix."""

    @property
    def abort_id(self) -> str:
        """The key that tells a running job to stop."""
        return f"{_ABORT_PREFIX}{self.key}"


class GatewayQueue(RedisQueue):
    """SAQ's queue with the repairs it needs.

    `turned_at` and `reached_at` are monotonic times in seconds: of the last dequeue that came back at all,
    and of the last one that Redis answered.
    """

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis, name=QUEUE_NAME, dump=msgspec.json.encode, load=msgspec.json.decode)
        self._pubsub = PubSubMultiplexer(redis.pubsub(), prefix=f"{_JOB_PREFIX}{self.name}")
        self._cleanup_script = redis.register_script(_SWEEP_SCRIPT)
        self._away = False
        self.turned_at = time.monotonic()
        self.reached_at = float("-inf")

    def namespace(self, key: str) -> str:
        """Return the Redis key of one of the queue's lists."""
        return f"{_QUEUE_PREFIX}{self.name}:{key}"

    def job_id(self, job_key: str) -> str:
        """Return the Redis key of a job."""
        return f"{_JOB_PREFIX}{self.name}:{job_key}"

    def job_key_from_id(self, job_id: str) -> str:
        """Return the key of a job from its Redis key."""
        return job_id.removeprefix(self.job_id(""))

    def deserialize(
        self, payload: dict[str, Any] | str | bytes | None, status: Status | str | None = None
    ) -> Job | None:
        """Return the job, None for what is none: a stray value must not stop the sweep of all others."""
        try:
            job = super().deserialize(payload, status)
        except (msgspec.MsgspecError, TypeError, ValueError, KeyError, AttributeError) as exc:
            _log.warning("job_unreadable", error=type(exc).__name__)
            return None
        if job is None:
            return None
        return GatewayJob(**{field.name: getattr(job, field.name) for field in dataclasses.fields(job)})

    async def dequeue(self, timeout: float = 0.0, poll_interval: float = 0.0) -> Job | None:  # noqa: ASYNC109 - the signature is the library's
        """Wait for the next job, up to `timeout` seconds; without Redis, pause and return None."""
        try:
            job = await super().dequeue(timeout, poll_interval)
        except (RedisError, OSError) as exc:
            self.turned_at = time.monotonic()
            if not self._away:
                _log.warning("queue_unreachable", error=type(exc).__name__)
            self._away = True
            await asyncio.sleep(_PAUSE_S)
            return None
        self.turned_at = self.reached_at = time.monotonic()
        if self._away:
            _log.info("queue_reachable_again")
        self._away = False
        return job

    async def _update(self, job: Job, status: Status | None = None, **kwargs: Any) -> None:  # noqa: ARG002 - the library's
        """Store a job and tell who watches it, in one step where the library takes two."""
        if status is None:
            stored = await self.job(job.key)
            status = None if stored is None else stored.status
        job.status = status or job.status
        step: Any = self.redis.pipeline(transaction=False)  # typed as if each command ran at once
        await step.set(job.id, self.serialize(job)).publish(job.id, job.status).execute()

    async def finish(
        self, job: Job, status: Status, *, result: Any = None, error: str | None = None, **kwargs: Any
    ) -> None:
        """Store how a job ended: of a failure where and as what, but none of its words, which may hold anything.

        SAQ hands over the whole trace. The worker's log has that.
        """
        failure = sys.exception()
        if status is Status.FAILED and failure is not None:
            error = outline(failure)
        await super().finish(job, status, result=result, error=error, **kwargs)

    async def sweep(self, lock: int = 60, abort: float = 5.0) -> list[str]:
        """Drop the jobs of dead workers, so that they can be ordered again; return the Redis keys of these jobs.

        Parameters
        ----------
        lock
            Seconds within which no other sweep begins. A job is dropped by the second sweep that finds it the same.
        abort
            How long, in seconds, to wait for a worker that lives after all to confirm that it let go of the job.
        """
        swept = await super().sweep(lock, abort)
        if swept:
            # While this mark stands, SAQ refuses the very order that replaces the job.
            await self.redis.delete(*(f"{_ABORT_PREFIX}{self.job_key_from_id(job_id)}" for job_id in swept))
        return swept

    async def disconnect(self) -> None:
        """Stop listening; whoever opened the Redis client closes it."""
        with contextlib.suppress(RedisError, OSError):
            await self._pubsub.close()

    async def order(self, order: JobOrder, **arguments: object) -> bool:
        """Ask for a job; return False if the same one waits or runs already.

        Raises
        ------
        redis.exceptions.RedisError, OSError
            Redis is out of reach. Callers carry on: no correctness hangs on a job.
        """
        job = GatewayJob(
            function=order.name,
            kwargs=arguments or None,
            key=order.key,
            timeout=order.timeout_s,
            heartbeat=order.heartbeat_s,
            retries=1,
            ttl=_KEEP_S,
        )
        return await self.enqueue(job) is not None


def outline(failure: BaseException) -> str:
    """Return the types of an exception and of what led to it, each with the places it went through."""
    lines: list[str] = []
    told: BaseException | None = failure
    while told is not None and len(lines) < _OUTLINE_LINES:
        lines.append(f"{type(told).__module__}.{type(told).__qualname__}")
        frames = traceback.extract_tb(told.__traceback__)
        lines += [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in reversed(frames)]
        told = told.__cause__ or (None if told.__suppress_context__ else told.__context__)
    return "\n".join(lines[:_OUTLINE_LINES])
