"""What lives as long as an app process: opened in order, drained first, closed in reverse."""

import asyncio
import functools
import gc
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from typing import Any, Final, NamedTuple

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine
from uuid_utils.compat import uuid7

from app.admin.administration import Administration, running_administration
from app.drain import Drain
from app.entrance import Entrance
from app.gateway.backend_reports import BackendReports
from app.gateway.body import Bodies
from app.gateway.catalogue import Catalogue
from app.gateway.client_address import TrustedProxies
from app.gateway.cooldown import Cooldown
from app.gateway.early_poll import EarlyPoll
from app.gateway.exchanges import Exchanges
from app.gateway.gateway import Gateway
from app.gateway.journal.layout import JournalSize
from app.gateway.journal.ledger import UsageLedger, running_ledger
from app.gateway.key_ring import AWAY_AFTER_S, KeyRing
from app.gateway.key_uses import KeyUses
from app.gateway.limiter import AdoptedRecords, Limiter
from app.gateway.line import Terms
from app.gateway.live_processes import LiveProcesses
from app.gateway.places import Places
from app.gateway.recheck import Recheck
from app.gateway.revocation_figures import RevocationFigures
from app.gateway.revocation_news import RevocationHearer
from app.gateway.revocations import RevocationFollower
from app.gateway.upstream.adapter import BackendUpstream
from app.health import Probes, Readiness
from app.metrics import Metrics
from app.settings import AppSettings
from db.key_lookup import KeyLookup
from db.postgres import create_engine
from db.redis.backend_board import BackendBoard
from db.redis.connection import connect_hot, connect_patient, own_channel
from db.redis.key_cache import RedisKeyCache
from db.redis.limit_recounts import LimitRecounts
from db.redis.limit_standing import LimitStanding
from db.redis.limits import LimitStore
from db.redis.model_table_read import ModelTableReader
from db.redis.multiplex import MultiplexedRedis
from db.redis.places import CHANNEL, PlaceNews, PlaceStore
from db.redis.queue import GatewayQueue
from db.redis.recount_board import RecountBoard
from db.redis.revocation_channel import RevocationNews, seen_by
from db.redis.usage_stream import HolderStream
from db.revocations import Revocations
from db.tasks import end
from db.usage import UsageRows
from domain.backends import build_backend_headers, config_digest
from domain.jobs import USAGE_ACCOUNT
from domain.keys import PepperRing

GC_THRESHOLD: Final = 20_000
FOLLOWER_RESTART_S: Final = 1.0
USABLE_WITHIN_S: Final = 2.0

_log = structlog.get_logger()


@asynccontextmanager
async def running_gateway(
    settings: AppSettings, *, metrics: Metrics, probes: Probes, admin: Entrance[Administration]
) -> AsyncIterator[Gateway]:
    """Open everything a relay needs, follow what changes, and on the way out drain and close.

    `admin` is opened too where this process has to know operators.
    """
    async with AsyncExitStack() as stack:
        stores = _open_stores(settings, stack)
        engine, hot, patient, queue = stores.engine, stores.hot, stores.patient, stores.queue
        adopted = AdoptedRecords()
        ledger = await stack.enter_async_context(
            running_ledger(
                settings.journal_dir,
                stream=HolderStream(patient, max_records=settings.usage_stream_max_records),
                enqueue=functools.partial(queue.order, USAGE_ACCOUNT),
                size=JournalSize.for_ring(settings.journal_bytes),
                on_adopted=adopted.settle,
            )
        )
        sequence = Revocations(engine)
        figures = RevocationFigures(metrics)
        revocations = RevocationFollower(latest=sequence.latest_seq, since=sequence.since, watch=figures)
        peppers = PepperRing.parse(settings.key_pepper.get_secret_value())
        lookup = KeyLookup(engine)
        key_uses = KeyUses(touch=lookup.touch, minting_id=peppers.minting_id)
        keys = KeyRing(
            find=key_uses.watching(lookup.find_by_digest),
            shared=RedisKeyCache(hot),
            revocations=revocations,
            redis_is_away=lambda: time.monotonic() - catalogue.redis_ok_at > AWAY_AFTER_S,
        )
        cooldown = Cooldown()
        upstreams = _upstreams(settings, stack)
        catalogue = Catalogue(
            reader=ModelTableReader(hot, subscriber=patient),
            config_digests={backend.name: config_digest(backend) for backend in settings.backends()},
            cooldown=cooldown,
            on_table=lambda _: backend_reports.changed(),
            allow_cloud=[backend.name for backend in settings.backends() if backend.allow_cloud],
        )
        proxies = TrustedProxies(settings.trusted_proxies)
        exchanges = Exchanges(write_timeout_s=settings.write_timeout_s, heartbeat_s=settings.heartbeat_s)
        bodies = stack.enter_context(
            closing(
                Bodies(
                    max_bytes=settings.max_body_bytes,
                    base_timeout_s=settings.body_timeout_s,
                    max_buffered_bytes=settings.max_buffered_bytes,
                )
            )
        )
        early_poll = EarlyPoll(queue)
        process_id = _process_name()
        backend_reports = BackendReports(
            BackendBoard(patient, process_id=process_id),
            upstreams=upstreams,
            catalogue=catalogue,
            cooldown=cooldown,
        )
        processes = LiveProcesses(process_id, seen=lambda: seen_by(patient))
        limiter = _limiter(stores, ledger, processes=processes, metrics=metrics)
        stack.push_async_callback(limiter.aclose)
        adopted.hand_to(limiter)
        places = _places(
            settings,
            stores,
            processes=processes,
            catalogue=catalogue,
            cooldown=cooldown,
            exchanges=exchanges,
            metrics=metrics,
        )
        gateway = Gateway(
            keys=keys,
            peppers=peppers,
            key_uses=key_uses,
            limiter=limiter,
            standing=LimitStanding(stores.scripts),
            image_tokens=settings.image_tokens,
            proxies=proxies,
            catalogue=catalogue,
            upstreams=upstreams,
            cooldown=cooldown,
            places=places,
            ledger=ledger,
            exchanges=exchanges,
            metrics=metrics,
            request_poll=early_poll.request,
            bodies=bodies,
            default_output_cap=settings.default_output_cap_tokens,
            ledger_state=ledger.state,
        )
        recheck = Recheck(exchanges, gateway.objection, on_cut=figures.cut)
        revocations.add_cache(recheck)
        news = RevocationNews(patient, process_id=process_id)
        hearer = RevocationHearer(news, revocations, recheck)
        probes.readiness = Readiness(
            postgres_ok_at=lambda: revocations.confirmed_at,
            redis_ok_at=lambda: catalogue.redis_ok_at,
            has_model_table=lambda: catalogue.has_table,
            draining=lambda: exchanges.draining,
        )
        administration = None
        if settings.knows_operators:
            administration = await stack.enter_async_context(
                running_administration(
                    settings,
                    keys=keys,
                    peppers=peppers,
                    key_uses=key_uses,
                    proxies=proxies,
                    catalogue=catalogue,
                    metrics=metrics,
                    patient=patient,
                    queue=queue,
                    scripts=stores.scripts,
                )
            )
            admin.open(administration)
        for follow in (
            revocations.follow,
            hearer.hear,
            hearer.report,
            processes.follow,
            catalogue.follow,
            catalogue.listen,
            backend_reports.run,
            proxies.follow_names,
            exchanges.watch,
            bodies.sweep,
            early_poll.run,
            gateway.keep_metrics,
            key_uses.keep_writing,
            limiter.keep_settling,
            limiter.answer_recounts,
            places.listen,
            *(administration.followers if administration else ()),
        ):
            stack.push_async_callback(end, asyncio.create_task(_kept_running(follow)))
        drain = stack.enter_context(Drain(exchanges, settings.drain_s))
        _settle_heap()
        await _usable(probes.readiness)
        _log.info("gateway_started", backends=sorted(upstreams))
        yield gateway
        await drain.finished()
        await key_uses.write()
        await limiter.settle_waiting()
        await places.leave()
        with suppress(RedisError, OSError):
            await news.withdraw()
        _log.info("gateway_drained")


class _Stores(NamedTuple):
    """The ways to Postgres and Redis. `hot` and `scripts` are for what a request waits for, `patient` for the rest."""

    engine: AsyncEngine
    hot: Redis
    patient: Redis
    scripts: MultiplexedRedis
    queue: GatewayQueue


def _open_stores(settings: AppSettings, stack: AsyncExitStack) -> _Stores:
    engine = create_engine(
        settings.database_url.get_secret_value(),
        application_name="neuronetz-gateway app",
        statement_timeout_s=settings.postgres_timeout_s,
    )
    stack.push_async_callback(engine.dispose)
    hot = connect_hot(settings.redis_url, timeout_ms=settings.redis_timeout_ms)
    stack.push_async_callback(hot.aclose)
    patient = connect_patient(settings.redis_url)
    stack.push_async_callback(patient.aclose)
    scripts = MultiplexedRedis(settings.redis_url, timeout_s=settings.redis_timeout_ms / 1000)
    stack.push_async_callback(scripts.aclose)
    return _Stores(engine, hot, patient, scripts, GatewayQueue(patient))


def _limiter(stores: _Stores, ledger: UsageLedger, *, processes: LiveProcesses, metrics: Metrics) -> Limiter:
    return Limiter(
        LimitStore(stores.scripts, process_id=processes.own),
        LimitRecounts(stores.scripts, process_id=processes.own),
        RecountBoard(stores.patient, process_id=processes.own),
        processes=processes,
        ledger=UsageRows(stores.engine).spent,
        unconfirmed=ledger.unconfirmed,
        on_shared=metrics.shared_limits.inc,
    )


def _places(
    settings: AppSettings,
    stores: _Stores,
    *,
    processes: LiveProcesses,
    catalogue: Catalogue,
    cooldown: Cooldown,
    exchanges: Exchanges,
    metrics: Metrics,
) -> Places:
    channel = own_channel(stores.patient, CHANNEL)
    terms = Terms(
        PlaceStore(stores.scripts, process_id=processes.own, channel=channel),
        caps={each.name: each.max_in_flight for each in settings.backends() if each.max_in_flight},
        most_waiting=settings.queue_most_waiting,
        longest_wait_s=settings.queue_longest_wait_s,
        processes=processes,
        cooling=cooldown.cooling,
        drained=lambda: catalogue.index.drained,
        draining=lambda: exchanges.draining,
        metrics=metrics,
    )
    return Places(terms, PlaceNews(stores.patient, process_id=processes.own))


def _upstreams(settings: AppSettings, stack: AsyncExitStack) -> dict[str, BackendUpstream]:
    upstreams = {
        backend.name: BackendUpstream(
            name=backend.name,
            base_url=backend.base_url,
            headers=build_backend_headers(backend),
            deadlines=settings.deadlines_of(backend),
        )
        for backend in settings.backends()
    }
    for upstream in upstreams.values():
        stack.push_async_callback(upstream.aclose)
    return upstreams


def _process_name() -> str:
    """Return what operators call this process: they find it by host and pid, and no other ever has the same name."""
    return f"{socket.gethostname()}:{os.getpid()}:{str(uuid7())[-12:]}"


async def _usable(readiness: Readiness) -> None:
    """Wait until requests can be served, because a proxy sends them as soon as somebody listens.

    Not for long: what this process cannot do without its stores, it says better than a closed door does.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(USABLE_WITHIN_S):
            while not readiness.ready(without_redis=False):  # noqa: ASYNC110 - several followers see to it
                await asyncio.sleep(0.01)


def _settle_heap() -> None:
    """Take what start-up made out of the garbage collector's sight, and let it look less often.

    Collections that walk modules, schemas and routes again and again cost a small request a fifth of its time;
    the relay itself makes next to no cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)


async def _kept_running(follow: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run one of the followers, again if it fails: without it the process would serve on and go stale unseen."""
    while True:
        try:
            await follow()
        except Exception:  # noqa: BLE001 - whatever broke it, it is told and tried again
            _log.exception("follower_failed", follower=follow.__qualname__)
            await asyncio.sleep(FOLLOWER_RESTART_S)
        else:
            return
