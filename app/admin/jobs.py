"""`/admin/v1/jobs`: what the workers do, how it went last, and doing it now."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

import structlog
from litestar import Controller, get, post
from litestar.params import PathParameter
from msgspec import Meta
from redis.exceptions import RedisError
from saq.job import Status

from app.admin.administration import Administration
from app.admin.asking_redis import asking_redis
from app.admin.contract import Answered, Moment
from app.admin.errors import JobBusy
from app.admin.handed import Admin, By
from app.admin.job_orders import known_job, order_job
from domain.jobs import EVERY_JOB, JobOrder

MAX_NAME_CHARS: Final = 200

State = Literal["idle", "queued", "active"]
"""What a kind of job does now: nothing, or it waits for a worker, or one runs it."""

_log = structlog.get_logger()


class JobRun(Answered):
    """One run that is over."""

    outcome: Annotated[str, Meta(description="complete, failed or aborted.", examples=["complete"])]
    started_at: Moment
    ended_at: Moment
    error: Annotated[str | None, Meta(description="What kind of failure; the worker's log has the rest.")]


class Job(Answered):
    """One kind of job. They take no arguments, and run again and again."""

    name: Annotated[str, Meta(examples=["discovery.poll"])]
    state: Annotated[State, Meta(description="Whether it waits for a worker, runs, or neither.")]
    next_run_at: Annotated[
        Moment | None,
        Meta(description="When it will be ordered next by itself; null: no worker has ordered it yet."),
    ]
    last_run: Annotated[JobRun | None, Meta(description="null: it has not run since Redis was empty.")]


class JobSummary(Answered):
    """The job queue."""

    redis_reachable: Annotated[bool, Meta(description="False: nothing below is known.")]
    workers: Annotated[int, Meta(ge=0, description="Workers that reported within the last 20 seconds.")]
    queued: Annotated[int, Meta(ge=0, description="Jobs that wait for a worker.")]
    active: Annotated[int, Meta(ge=0, description="Jobs that run.")]
    completed: Annotated[int, Meta(ge=0, description="Runs that ended well, since these workers started.")]
    failed: Annotated[int, Meta(ge=0, description="Runs that failed, since these workers started.")]
    jobs: Annotated[tuple[Job, ...], Meta(description="Every kind of job.")]


JobInPath = Annotated[
    str, PathParameter(max_length=MAX_NAME_CHARS, description="The job's name, such as `usage.roll_up`.")
]


class JobController(Controller):
    """The jobs."""

    path = "/jobs"
    tags = ("jobs",)

    @get(operation_id="getJobs", summary="Tell what the workers do, and how each job ended last")
    async def get_jobs(self, admin: Admin) -> JobSummary:
        """Answer counts, and every kind of job with its next and its last run."""
        try:
            return await _summary(admin)
        except (RedisError, OSError) as exc:
            _log.warning("jobs_unreadable", error=type(exc).__name__)
            return JobSummary(
                redis_reachable=False, workers=0, queued=0, active=0, completed=0, failed=0, jobs=()
            )

    @get("/{job:str}", operation_id="getJob", summary="Tell how one job ended last")
    async def get_job(self, job: JobInPath, admin: Admin) -> Job:
        """Answer one kind of job."""
        return await _job(admin, known_job(job))

    @post(
        "/{job:str}/run",
        operation_id="runJob",
        summary="Have a job run now, ahead of its time",
        status_code=202,
        opt={"refuses": (409,)},
    )
    async def run_job(self, job: JobInPath, admin: Admin, caller: By) -> Job:
        """Answer the job, which waits for a worker or runs by now."""
        order = known_job(job)
        await order_job(admin, caller, order, action="job.run")
        return await _job(admin, order)

    @post(
        "/{job:str}/retry",
        operation_id="retryJob",
        summary="Have a job run again whose last run failed or was aborted",
        status_code=202,
        opt={"refuses": (409,)},
    )
    async def retry_job(self, job: JobInPath, admin: Admin, caller: By) -> Job:
        """Answer the job, which waits for a worker or runs by now."""
        order = known_job(job)
        async with asking_redis():
            last = (await admin.jobs.last_runs()).get(order.name)
        if last is None or last.succeeded:
            raise JobBusy(f"The last run of {order.name} did not fail, so there is nothing to repeat.")
        await order_job(admin, caller, order, action="job.retry")
        return await _job(admin, order)


async def _summary(admin: Administration) -> JobSummary:
    info = await admin.queue.info()
    stats = [worker["stats"] for worker in info["workers"].values() if worker["stats"] is not None]
    return JobSummary(
        redis_reachable=True,
        workers=len(info["workers"]),
        queued=info["queued"],
        active=info["active"],
        completed=sum(each["complete"] for each in stats),
        failed=sum(each["failed"] for each in stats),
        jobs=await _jobs(admin, EVERY_JOB),
    )


async def _job(admin: Administration, order: JobOrder) -> Job:
    async with asking_redis():
        (job,) = await _jobs(admin, (order,))
    return job


async def _jobs(admin: Administration, orders: Sequence[JobOrder]) -> tuple[Job, ...]:
    now = datetime.now(UTC)
    next_s = await admin.jobs.next_orders_s(order.name for order in orders)
    last = await admin.jobs.last_runs()
    jobs = []
    for order in orders:
        left_s, run = next_s.get(order.name), last.get(order.name)
        jobs.append(
            Job(
                name=order.name,
                state=await _state(admin, order.key),
                next_run_at=None if left_s is None else now + timedelta(seconds=left_s),
                last_run=None
                if run is None
                else JobRun(run.outcome, run.started_at, run.ended_at, run.error),
            )
        )
    return tuple(jobs)


async def _state(admin: Administration, key: str) -> State:
    job = await admin.queue.job(key)
    return "idle" if job is None else _STATES.get(job.status, "idle")


_STATES: Final[dict[Status, State]] = {Status.QUEUED: "queued", Status.ACTIVE: "active"}
