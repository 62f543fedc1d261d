"""The worker process, wired: the only place that knows all its parts."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any, Final

import structlog
import uvloop
from redis.asyncio import Redis
from saq.types import Context
from sqlalchemy.ext.asyncio import AsyncEngine

from db.backend_states import CHANNEL as DRAIN_CHANNEL
from db.backend_states import DrainedBackends
from db.key_expiry import announce_expired_keys
from db.logs import configure_logging
from db.parent_watch import exit_with_parent
from db.postgres import create_engine
from db.redis.connection import PATIENT_TIMEOUT_S, connect_patient
from db.redis.job_board import JobBoard
from db.redis.limit_recounts import LimitLeases
from db.redis.model_table_read import ModelTableReader
from db.redis.model_table_write import ModelTableWriter
from db.redis.multiplex import MultiplexedRedis
from db.redis.queue import GatewayQueue
from db.redis.revocation_channel import RevocationAnnouncer, certainly_live
from db.redis.usage_stream import AccountingStream
from db.retention import Retention
from db.revocation_mirror import RevocationMirror
from db.revocations import Revocations
from db.settings import SettingsError
from db.tables import CHANNEL as REVOCATION_CHANNEL
from db.tasks import end
from db.usage import UsageRows
from db.usage_roll_ups import UsageRollUps
from domain.jobs import (
    DISCOVERY_POLL,
    DRAINS_FOLD,
    KEYS_EXPIRE,
    LEASES_SWEEP,
    REVOCATION_FANOUT,
    USAGE_ACCOUNT,
    USAGE_PRUNE,
    USAGE_ROLL_UP,
)
from worker.health import HealthPage
from worker.job_table import JobSpec, saq_function
from worker.jobs.discovery import Discovery
from worker.jobs.drains import fold
from worker.jobs.leases import sweep
from worker.jobs.revocation import Fanout
from worker.jobs.upkeep import expire_keys, prune, roll_up
from worker.jobs.usage import account
from worker.listener import Listener
from worker.saq_worker import GatewayWorker
from worker.settings import WorkerSettings
from worker.ticker import Ticker

# Holders order accounting themselves after each batch; this finds what such an order missed.
ACCOUNT_INTERVAL_S: Final = 1.0
# The listeners order fanout and fold at every notification; this finds what no notification told.
RECONCILE_INTERVAL_S: Final = 5.0
ROLL_UP_INTERVAL_S: Final = 3600.0
PRUNE_INTERVAL_S: Final = 86_400.0
EXPIRE_INTERVAL_S: Final = 60.0
# With the 6 s after which a silent process is missed, and a second sweep that misses it too, what it held is free
# within 15 s.
SWEEP_INTERVAL_S: Final = 3.0

# The sums of a busy hour, and the rows of a busy month, take longer than anybody may wait for an answer.
UPKEEP_STATEMENT_S: Final = 60.0
UPKEEP_CONNECTIONS: Final = 2

_log = structlog.get_logger()


def run(settings: WorkerSettings) -> None:
    """Run a worker until it is told to stop. Postgres and Redis may come later than this process.

    Raises
    ------
    SettingsError
        The address of the health page cannot be listened on.
    """
    if settings.exit_with_parent:
        exit_with_parent()
    configure_logging(level=settings.log_level, log_format=settings.log_format, process="worker")
    # SAQ logs each failure with its trace, every second of an outage; ours says it once.
    logging.getLogger("saq").setLevel(logging.CRITICAL)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings))


async def serve(settings: WorkerSettings) -> None:
    """Run a worker in this event loop.

    Raises
    ------
    SettingsError
        The address of the health page cannot be listened on.
    """
    async with contextlib.AsyncExitStack() as stack:
        redis = connect_patient(settings.redis_url)
        stack.push_async_callback(redis.aclose)
        engine = create_engine(
            settings.database_url.get_secret_value(),
            application_name="neuronetz-gateway worker",
            statement_timeout_s=settings.postgres_timeout_s,
        )
        stack.push_async_callback(engine.dispose)
        upkeep_engine = create_engine(
            settings.database_url.get_secret_value(),
            application_name="neuronetz-gateway upkeep",
            pool_size=UPKEEP_CONNECTIONS,
            statement_timeout_s=UPKEEP_STATEMENT_S,
        )
        stack.push_async_callback(upkeep_engine.dispose)
        discovery = await stack.enter_async_context(open_discovery(settings, redis, engine))
        queue = GatewayQueue(redis)
        stack.push_async_callback(queue.disconnect)
        scripts = MultiplexedRedis(settings.redis_url, timeout_s=PATIENT_TIMEOUT_S)
        stack.push_async_callback(scripts.aclose)
        jobs = (
            *job_table(settings, discovery=discovery, engine=engine, redis=redis),
            drain_job(redis, engine),
            lease_job(redis, scripts),
            *upkeep_jobs(settings, engine=upkeep_engine),
        )
        page = await _open_health_page(settings, queue)
        stack.callback(page.close)
        await stack.enter_async_context(_ticking(jobs, redis, queue))
        direct = settings.direct_url().get_secret_value()
        listeners = (
            Listener(direct, queue, channel=REVOCATION_CHANNEL, order=REVOCATION_FANOUT),
            Listener(direct, queue, channel=DRAIN_CHANNEL, order=DRAINS_FOLD),
        )
        await stack.enter_async_context(_running(*(listener.run() for listener in listeners)))

        async def announce(_: Context) -> None:
            _log.info(
                "worker_started",
                backends=[backend.name for backend in settings.backends()],
                jobs=[job.order.name for job in jobs],
                health_port=page.sockets[0].getsockname()[1],
            )

        functions = [saq_function(job) for job in jobs]
        await GatewayWorker(queue, functions, board=JobBoard(redis), on_start=announce).start()
    _log.info("worker_stopped")


def open_discovery(settings: WorkerSettings, redis: Redis, engine: AsyncEngine) -> Discovery:
    """Return the discovery of the configured backends; enter it to have its connections closed."""
    return Discovery(
        settings.backends(),
        reader=ModelTableReader(redis),
        writer=ModelTableWriter(redis),
        timeout_s=settings.discovery_timeout_s,
        stale_s=settings.discovery_stale_s,
        drained=DrainedBackends(engine).names,
    )


def job_table(
    settings: WorkerSettings, *, discovery: Discovery, engine: AsyncEngine, redis: Redis
) -> tuple[JobSpec, ...]:
    """Return the jobs that requests and answers depend on."""
    sequence = Revocations(engine)
    mirror = None if settings.revocation_mirror is None else RevocationMirror(settings.revocation_mirror)
    return (
        JobSpec(
            DISCOVERY_POLL,
            discovery.poll,
            repeatable="it only looks, and the newer look replaces the older one",
            every_s=settings.discovery_interval_s,
        ),
        JobSpec(
            REVOCATION_FANOUT,
            Fanout(
                latest=sequence.latest_seq,
                since=sequence.since,
                announcer=RevocationAnnouncer(redis),
                record=None if mirror is None else functools.partial(mirror.catch_up, sequence.since),
            ).run,
            repeatable="a number that was announced is not announced again",
            every_s=RECONCILE_INTERVAL_S,
        ),
        JobSpec(
            USAGE_ACCOUNT,
            functools.partial(account, stream=AccountingStream(redis), insert=UsageRows(engine).insert_batch),
            repeatable="rows are keyed by request id, and a batch is confirmed only after its commit",
            every_s=ACCOUNT_INTERVAL_S,
        ),
    )


def drain_job(redis: Redis, engine: AsyncEngine) -> JobSpec:
    """Return the job that tells app processes which backends are drained."""
    return JobSpec(
        DRAINS_FOLD,
        functools.partial(
            fold,
            DrainedBackends(engine).names,
            reader=ModelTableReader(redis),
            writer=ModelTableWriter(redis),
        ),
        repeatable="a table that says what Postgres says is left alone",
        every_s=RECONCILE_INTERVAL_S,
    )


def lease_job(redis: Redis, scripts: MultiplexedRedis) -> JobSpec:
    """Return the job that frees what dead processes hold."""
    return JobSpec(
        LEASES_SWEEP,
        functools.partial(sweep, LimitLeases(scripts), functools.partial(certainly_live, redis)),
        repeatable="what was given back is marked and not given back again",
        every_s=SWEEP_INTERVAL_S,
    )


def upkeep_jobs(settings: WorkerSettings, *, engine: AsyncEngine) -> tuple[JobSpec, ...]:
    """Return the jobs that time makes necessary. The engine allows statements of `UPKEEP_STATEMENT_S`."""
    roll_ups = UsageRollUps(engine)
    return (
        JobSpec(
            USAGE_ROLL_UP,
            functools.partial(roll_up, roll_ups),
            repeatable="the sums of an hour are replaced as a whole by what its rows say",
            every_s=ROLL_UP_INTERVAL_S,
        ),
        JobSpec(
            USAGE_PRUNE,
            functools.partial(
                prune, Retention(engine), roll_ups, keep_months=settings.usage_retention_months
            ),
            repeatable="a month that is there is not made again, one that is gone not dropped again",
            every_s=PRUNE_INTERVAL_S,
        ),
        JobSpec(
            KEYS_EXPIRE,
            functools.partial(expire_keys, functools.partial(announce_expired_keys, engine)),
            repeatable="each key remembers the expiry that was announced, in the transaction that announces it",
            every_s=EXPIRE_INTERVAL_S,
        ),
    )


async def _open_health_page(settings: WorkerSettings, queue: GatewayQueue) -> asyncio.Server:
    try:
        return await HealthPage(queue).listen(settings.health_host, settings.health_port)
    except OSError as exc:
        raise SettingsError(
            f"GATEWAY_WORKER_HEALTH_HOST and GATEWAY_WORKER_HEALTH_PORT name an address that cannot be"
            f" listened on: {settings.health_host} port {settings.health_port}."
        ) from exc


def _ticking(
    jobs: Iterable[JobSpec], redis: Redis, queue: GatewayQueue
) -> contextlib.AbstractAsyncContextManager[None]:
    return _running(*(Ticker(job.order, every_s=job.every_s, redis=redis, queue=queue).run() for job in jobs))


@contextlib.asynccontextmanager
async def _running(*loops: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run endless loops beside the body, and end them with it."""
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        yield
    finally:
        await end(*tasks)
