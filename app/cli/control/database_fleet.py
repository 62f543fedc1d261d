"""Backends, models, jobs: from the model table, the job queue and what every process says of itself, all in Redis."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from redis.exceptions import RedisError
from saq.job import Status

from app.admin.fleet import EFFECTIVE_WITHIN_S, Seen
from app.cli.control.job_end import next_end
from app.cli.control.port import Changed
from app.cli.failure import CommandFailed
from app.cli.fleet_lines import BackendLine, DrainLine, JobLine, JobsSummary, LastRun
from app.cli.model_lines import ModelList, model_list
from app.cli.model_table import read_model_table
from app.cli.people import actor
from app.cli.place import load, redis_troubles
from db.postgres import Database
from db.redis.backend_board import reports
from db.redis.connection import connect_hot, connect_patient
from db.redis.job_board import JobBoard, JobRun
from db.redis.queue import GatewayQueue
from db.settings import BackendSettings, RedisSettings
from domain.backends import BackendSpec
from domain.drains import BackendUnknown, Drain
from domain.jobs import EVERY_JOB, JobOrder
from domain.model_table import BackendCondition, BackendState, ModelTable

_TIMEOUT_MS: Final = 2000
_LOOK_AGAIN_S: Final = 0.02
_STATES: Final = {Status.QUEUED: "queued", Status.ACTIVE: "active"}
_NO_TABLE: Final = (
    "There is no model table yet: the worker writes it within seconds of its start; does it run?"
)


class DatabaseFleet:
    """See `app.cli.control.port.FleetDesk`."""

    def __init__(self, environ: Mapping[str, str], database: Database) -> None:
        self._environ = environ
        self._database = database

    async def models(self) -> ModelList:
        """Read the model table."""
        table, size = await read_model_table(load(RedisSettings, self._environ))
        if table is None:
            raise CommandFailed(_NO_TABLE)
        return model_list(table, size)

    async def backends(self) -> tuple[BackendLine, ...]:
        """Put settings, model table, decisions and reports together."""
        specs, table = self._specs(), await self._table()
        async with self._database.unit_of_work(actor()) as work:
            drains = await work.backends.drained()
        seen = await self._seen()
        return tuple(
            _line(state, specs.get(state.name), drains.get(state.name), seen) for state in table.backends
        )

    async def drain(self, name: str, reason: str, *, waits: bool) -> Changed[BackendLine]:
        """Take a backend out of service."""
        before = await self._one(name)
        async with self._database.unit_of_work(actor()) as work:
            await work.backends.drain(name, reason)
        return Changed(before, await self._after(name, drained=True, waits=waits))

    async def undrain(self, name: str, *, waits: bool) -> Changed[BackendLine]:
        """Let a backend back in."""
        before = await self._one(name)
        async with self._database.unit_of_work(actor()) as work:
            await work.backends.undrain(name)
        return Changed(before, await self._after(name, drained=False, waits=waits))

    async def jobs(self) -> JobsSummary:
        """Look into the queue, and at what workers note of their runs."""
        async with self._queue() as queue:
            board = JobBoard(queue.redis)
            info = await queue.info()
            next_s = await board.next_orders_s(order.name for order in EVERY_JOB)
            last = await board.last_runs()
            lines = [
                JobLine(
                    name=order.name,
                    state=await _state(queue, order),
                    next_run_at=_after(next_s.get(order.name)),
                    last_run=_last_run(last.get(order.name)),
                )
                for order in EVERY_JOB
            ]
        return JobsSummary(info["queued"], info["active"], len(info["workers"]), tuple(lines))

    async def order_job(self, order: JobOrder, *, again: bool, waits: bool) -> LastRun | None:
        """Order a job in the queue, and note who did; the event is gone if nothing came of it."""
        async with self._queue() as queue:
            board = JobBoard(queue.redis)

            async def last() -> LastRun | None:
                return _last_run((await board.last_runs()).get(order.name))

            before = await last()
            if again and (before is None or not before.failed):
                raise CommandFailed(
                    f"The last run of {order.name} did not fail, so there is nothing to repeat."
                )
            async with self._database.unit_of_work(actor()) as work:
                await work.audit.append("job.retry" if again else "job.run", f"job:{order.name}")
                if not await queue.order(order):
                    raise CommandFailed(f"{order.name} waits or runs already, or was aborted a moment ago.")
            return await next_end(order, after=before, last=last, every_s=_LOOK_AGAIN_S) if waits else None

    async def _one(self, name: str) -> BackendLine:
        for line in await self.backends():
            if line.name == name:
                return line
        raise BackendUnknown(name)

    async def _after(self, name: str, *, drained: bool, waits: bool) -> BackendLine:
        """Return a backend after a decision; with `waits` once every process acts upon it, or 5 seconds later."""
        give_up_at = time.monotonic() + EFFECTIVE_WITHIN_S
        while waits and time.monotonic() < give_up_at:
            if (await self._seen()).agree(name, drained=drained) is not False:
                break
            await asyncio.sleep(_LOOK_AGAIN_S)
        return await self._one(name)

    async def _table(self) -> ModelTable:
        table, _ = await read_model_table(load(RedisSettings, self._environ))
        if table is None:
            raise CommandFailed(_NO_TABLE)
        return table

    async def _seen(self) -> Seen:
        settings = load(RedisSettings, self._environ)
        async with connect_hot(settings.redis_url, timeout_ms=_TIMEOUT_MS) as redis:
            try:
                return Seen(await reports(redis) or None)
            except (RedisError, OSError, msgspec.MsgspecError):
                return Seen(None)

    def _specs(self) -> dict[str, BackendSpec]:
        return {spec.name: spec for spec in load(BackendSettings, self._environ).backends()}

    @asynccontextmanager
    async def _queue(self) -> AsyncIterator[GatewayQueue]:
        settings = load(RedisSettings, self._environ)
        async with connect_patient(settings.redis_url) as redis:
            queue = GatewayQueue(redis)
            with redis_troubles(settings.redis_url):
                try:
                    yield queue
                finally:
                    await queue.disconnect()


def _line(state: BackendState, spec: BackendSpec | None, drain: Drain | None, seen: Seen) -> BackendLine:
    return BackendLine(
        name=state.name,
        address=None if spec is None else spec.base_url,
        has_token=None if spec is None else spec.auth_token is not None,
        condition=state.condition.value,
        error=state.error if state.condition is not BackendCondition.OK else None,
        version=state.version,
        polled_at=state.polled_at,
        last_ok_at=state.last_ok_at,
        models=tuple(model.name for model in state.models),
        loaded=state.loaded,
        in_flight=seen.in_flight(state.name),
        max_in_flight=None if spec is None else spec.max_in_flight,
        cooling_in=seen.cooling_in(state.name),
        drain=None if drain is None else DrainLine(drain.at, drain.by, drain.reason),
        effective=seen.agree(state.name, drained=drain is not None),
    )


async def _state(queue: GatewayQueue, order: JobOrder) -> str:
    job = await queue.job(order.key)
    return "idle" if job is None else _STATES.get(job.status, "idle")


def _after(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)


def _last_run(run: JobRun | None) -> LastRun | None:
    return None if run is None else LastRun(run.outcome, run.started_at, run.ended_at, run.error)
