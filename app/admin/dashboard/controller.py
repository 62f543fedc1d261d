"""What the dashboard's pages ask for: SAQ's own questions under SAQ's names, and those about our jobs.

Of a job only what is listed here is shown: its arguments and its result stay where they are.
"""

from typing import Annotated, Any, Final

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.params import PathParameter
from saq.job import TERMINAL_STATUSES, UNSUCCESSFUL_TERMINAL_STATUSES, Job, Status

from app.admin.administration import Administration
from app.admin.asking_redis import asking_redis
from app.admin.dashboard.lobby import accepts_gzip
from app.admin.dashboard.pages import HTML, asset, dashboard_page
from app.admin.errors import JobBusy, JobUnknown
from app.admin.handed import Admin, By
from app.admin.job_orders import known_job, order_job
from app.admin.logins import Caller
from db.redis.queue import QUEUE_NAME
from domain.errors import UnknownPath
from domain.jobs import EVERY_JOB

MAX_KEY_CHARACTERS: Final = 200

Name = Annotated[str, PathParameter(max_length=MAX_KEY_CHARACTERS)]


class JobView(msgspec.Struct, frozen=True):
    """One run of a job as SAQ's page wants it; times in milliseconds since 1970, 0 where it has not come to that."""

    key: str
    function: str
    queue: str
    status: str
    kwargs: str
    result: str
    error: str
    queued: int
    started: int
    completed: int
    progress: float
    attempts: int


class WorkerStats(msgspec.Struct, frozen=True):
    """What one worker has done. `uptime` is in milliseconds."""

    complete: int = 0
    failed: int = 0
    retried: int = 0
    aborted: int = 0
    uptime: int = 0


class WorkerView(msgspec.Struct, frozen=True):
    """One live worker."""

    stats: WorkerStats


class QueueView(msgspec.Struct, frozen=True):
    """The queue; `jobs` are those that wait or run, and the last run of each of ours."""

    name: str
    queued: int
    active: int
    scheduled: int
    workers: dict[str, WorkerView]
    jobs: tuple[JobView, ...] = ()


class OurJob(msgspec.Struct, frozen=True):
    """One of our jobs. `last` is its present or last run, None where that was too long ago."""

    name: str
    key: str
    last: JobView | None
    can_retry: bool


class Done(msgspec.Struct, frozen=True):
    """What was asked for is done."""


class DashboardController(Controller):
    """The pages and what they ask for."""

    include_in_schema = False

    @get(["/", "/queues/{queue:str}", "/queues/{queue:str}/jobs/{job:str}"])
    async def page(self) -> Response[bytes]:
        """Answer the one page; its script decides by the path what it shows."""
        return Response(dashboard_page(), headers={"content-type": HTML.decode()})

    @get("/static/{name:str}")
    async def file(self, request: Request[Caller, Any, Any], name: Name) -> Response[bytes]:
        """Answer one of the page's files."""
        found = asset(name, accepts_gzip=accepts_gzip(request.scope["headers"]))
        if found is None:
            raise UnknownPath
        headers = {key.decode(): value.decode() for key, value in found.headers}
        return Response(found.body, headers=headers)

    @get("/api/queues")
    async def queues(self, admin: Admin) -> dict[str, tuple[QueueView, ...]]:
        """Answer all queues, which are one."""
        return {"queues": (await _queue(admin, with_jobs=False),)}

    @get("/api/queues/{queue:str}")
    async def queue(self, admin: Admin, queue: Name) -> dict[str, QueueView]:
        """Answer the queue."""
        _check(queue)
        return {"queue": await _queue(admin, with_jobs=True)}

    @get("/api/queues/{queue:str}/jobs/{job:str}")
    async def job(self, admin: Admin, queue: Name, job: Name) -> dict[str, JobView]:
        """Answer one run."""
        return {"job": _view(await _found(admin, queue, job))}

    @post("/api/queues/{queue:str}/jobs/{job:str}/retry", status_code=200)
    async def retry(self, admin: Admin, caller: By, queue: Name, job: Name) -> Done:
        """Order a job again whose last run did not succeed."""
        run = await _found(admin, queue, job)
        if run.status not in UNSUCCESSFUL_TERMINAL_STATUSES:
            raise JobBusy(
                f"Only a run that failed or was aborted can be repeated; this one is {run.status.value}."
            )
        await order_job(admin, caller, known_job(run.function), action="job.retry")
        return Done()

    @post("/api/queues/{queue:str}/jobs/{job:str}/abort", status_code=200)
    async def abort(self, admin: Admin, caller: By, queue: Name, job: Name) -> Done:
        """Stop a run, or take it out of the queue."""
        run = await _found(admin, queue, job)
        if run.status in TERMINAL_STATUSES:
            raise JobBusy(f"It has ended already; it is {run.status.value}.")
        async with admin.database.unit_of_work(caller.actor) as work:
            await work.audit.append("job.abort", f"job:{known_job(run.function).name}")
            async with asking_redis():
                await run.abort("aborted by an operator")
        return Done()

    @get("/api/jobs")
    async def jobs(self, admin: Admin) -> dict[str, tuple[OurJob, ...]]:
        """Answer our jobs, each with its last run."""
        runs = await _runs_of_ours(admin)
        return {
            "jobs": tuple(
                OurJob(
                    order.name,
                    order.key,
                    None if run is None else _view(run),
                    can_retry=run is not None and run.status in UNSUCCESSFUL_TERMINAL_STATUSES,
                )
                for order, run in zip(EVERY_JOB, runs, strict=True)
            )
        }

    @post("/api/jobs/{name:str}/run", status_code=200)
    async def run(self, admin: Admin, caller: By, name: Name) -> Done:
        """Order one of our jobs now."""
        await order_job(admin, caller, known_job(name), action="job.run")
        return Done()


async def _queue(admin: Administration, *, with_jobs: bool) -> QueueView:
    async with asking_redis():
        info = await admin.queue.info(jobs=with_jobs)
        keys = [str(each["key"]) for each in info["jobs"]]
        runs = await admin.queue.jobs(keys) if keys else []
    ours = await _runs_of_ours(admin) if with_jobs else []
    shown = {run.key: _view(run) for run in (*ours, *runs) if run is not None}
    return QueueView(
        name=QUEUE_NAME,
        queued=info["queued"],
        active=info["active"],
        scheduled=info["scheduled"],
        workers={
            name: WorkerView(msgspec.convert(worker["stats"], WorkerStats))
            for name, worker in info["workers"].items()
        },
        jobs=tuple(shown.values()),
    )


async def _runs_of_ours(admin: Administration) -> list[Job | None]:
    async with asking_redis():
        return await admin.queue.jobs([order.key for order in EVERY_JOB])


async def _found(admin: Administration, queue: str, key: str) -> Job:
    _check(queue)
    async with asking_redis():
        found = await admin.queue.job(key)
    if found is None:
        raise JobUnknown
    return found


def _check(queue: str) -> None:
    if queue != QUEUE_NAME:
        raise UnknownPath


def _view(run: Job) -> JobView:
    arguments = len(run.kwargs or {})
    return JobView(
        key=run.key,
        function=run.function,
        queue=QUEUE_NAME,
        status=Status(run.status).value,
        kwargs=f"{arguments}, not shown" if arguments else "none",
        result="none" if run.result is None else "not shown",
        error=run.error or "",
        queued=run.queued,
        started=run.started,
        completed=run.completed,
        progress=run.progress,
        attempts=run.attempts,
    )
