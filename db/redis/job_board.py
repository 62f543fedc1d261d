"""How each kind of job ended last, and when it will be ordered next: kept longer than the queue keeps its jobs."""

import contextlib
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, cast

import msgspec
from redis.asyncio import Redis
from saq.job import Status

KEY: Final = "nng:jobs:ended"

_encode: Final = msgspec.json.Encoder().encode


class JobRun(msgspec.Struct, frozen=True):
    """One run that is over. `outcome` is SAQ's word; `error` the class of what was raised, never its text."""

    outcome: str
    started_at: datetime
    ended_at: datetime
    error: str | None = None

    @property
    def succeeded(self) -> bool:
        """Whether it did what it should."""
        return self.outcome == Status.COMPLETE.value


_decode: Final = msgspec.json.Decoder(JobRun).decode


class JobBoard:
    """Written by workers, read by operators. Every method raises `RedisError` or `OSError` when Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def ended(self, job: str, run: JobRun) -> None:
        """Note how a run ended."""
        await self._redis.hset(KEY, job, _encode(run))

    async def last_runs(self) -> dict[str, JobRun]:
        """Return the last run of each job that has run at all; what another release noted may not be readable."""
        found = cast("dict[bytes, bytes]", await self._redis.hgetall(KEY))
        runs = {}
        for name, value in found.items():
            with contextlib.suppress(msgspec.MsgspecError):
                runs[name.decode()] = _decode(value)
        return runs

    async def next_orders_s(self, jobs: Iterable[str]) -> dict[str, float]:
        """Return in how many seconds each of these jobs will be ordered; without those that nobody will order."""
        names = tuple(jobs)
        step: Any = self._redis.pipeline(transaction=False)  # typed as if each command ran at once
        for name in names:
            step.pttl(tick_key(name))
        left_ms = await step.execute()
        return {name: ms / 1000 for name, ms in zip(names, left_ms, strict=True) if ms >= 0}


def tick_key(job: str) -> str:
    """Return the key of the lease that lasts until a job is ordered again."""
    return f"nng:tick:{job}"
