"""Reading everything that knows of usage, in the order in which a record travels.

First the counters of limits, then journals, the stream, Postgres: a record leaves one place only after it has arrived
at the next, so none is missed, and one that is met twice is known by its request.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

import anyio.to_thread
import msgspec
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.gateway.journal.inspection import DirectoryLook, look
from app.reconcile.counters import Charge, Taken, Window, taken
from app.reconcile.records import Ledger, records_in
from db.postgres import Database
from db.redis.limit_counters import HeldTokens, LimitCounters, Scope, TenantCounters
from db.redis.revocation_channel import seen_by
from db.redis.usage_stream_look import DeadBatch, StreamLook, UsageStreamLook
from db.usage_look import (
    LedgerRow,
    SumDifference,
    UsageLook,
    rows_between,
    rows_of,
    tokens_between,
)
from db.usage_report import snapshot
from domain.limits import LimitKind
from domain.periods import bounds
from domain.tenants import Actor, Tenant
from domain.usage import UsageRecord
from domain.usage_spans import first_of_month
from domain.values import KeyId, Limits, RequestId

# A request is admitted soon after it was reserved, in that month or the next.
_ADMITTED_WITHIN: Final = timedelta(days=1)


class JournalsUnreadable(Exception):  # noqa: N818 - reads as what happened
    """The directory of the journals, or a file in it, cannot be read; `trouble` says why."""

    def __init__(self, trouble: OSError) -> None:
        super().__init__(trouble.strerror)
        self.trouble = trouble


class Stores(NamedTuple):
    """Where everything is. `redis` returns bytes; `directory` is where this machine's journals are."""

    database: Database
    redis: Redis
    directory: Path
    actor: Actor


class TenantLimited(msgspec.Struct, frozen=True):
    """A tenant whose requests Redis counts: its limits, those of its keys, and how its keys are called."""

    tenant: Tenant
    limits: Limits
    key_limits: Mapping[KeyId, Limits]
    prefixes: Mapping[KeyId, str]


class Period(msgspec.Struct, frozen=True):
    """One day or month of a tenant: what Redis counts in it, and what everything else says it must count."""

    kind: LimitKind
    start: int
    counted: Mapping[Scope, int]
    expected: Mapping[Scope, Taken]


class TenantSeen(msgspec.Struct, frozen=True):
    """A tenant with its counters. `rows` are those of the requests that hold a reservation."""

    limited: TenantLimited
    counters: TenantCounters
    periods: tuple[Period, ...]
    rows: Mapping[RequestId, LedgerRow]


class Seen(msgspec.Struct, frozen=True):
    """Everything, as it was read at about `now`. `live` are the app processes that Redis heard of lately."""

    now: datetime
    directory: DirectoryLook
    stream: StreamLook
    dead: tuple[DeadBatch, ...]
    ledger: Ledger
    sums: tuple[SumDifference, ...]
    tenants: tuple[TenantSeen, ...]
    live: frozenset[str]

    def records(self) -> Iterator[UsageRecord]:
        """Return every settled record on its way, some more than once."""
        return _records(self.directory, self.stream, self.dead)


class _Counted(NamedTuple):
    limited: TenantLimited
    counters: TenantCounters
    day: int
    month: int


async def see(stores: Stores, *, since: datetime) -> Seen:
    """Read everything once. `since` is where the comparison of rows and sums begins.

    Raises
    ------
    JournalsUnreadable
        The directory or a file in it.
    RedisError, OSError, SQLAlchemyError
        A store cannot be read.
    """
    counters = LimitCounters(stores.redis)
    counted = [await _count(counters, limited) for limited in await _limited(stores, counters)]
    live = frozenset(await seen_by(stores.redis))
    try:
        directory = await anyio.to_thread.run_sync(look, stores.directory)
    except OSError as exc:
        raise JournalsUnreadable(exc) from exc
    streams = UsageStreamLook(stores.redis)
    stream, dead = await streams.waiting(), await streams.dead()
    found = {record.admission.request_id: record for record in _records(directory, stream, dead)}
    ledger_look = UsageLook(stores.database.engine)
    admissions = [
        *(record.admission for record in found.values()),
        *(slot.admission for journal in directory.journals for slot in journal.open),
    ]
    rows = await ledger_look.rows(
        {admission.request_id for admission in admissions}, {admission.period for admission in admissions}
    )
    now = datetime.fromtimestamp(await counters.now(), UTC)
    return Seen(
        now=now,
        directory=directory,
        stream=stream,
        dead=dead,
        ledger=Ledger(rows, await ledger_look.pruned_months()),
        sums=await ledger_look.sum_differences(since, now),
        tenants=tuple([await _tenant(stores.database.engine, each, found) for each in counted]),
        live=live,
    )


async def _limited(stores: Stores, counters: LimitCounters) -> list[TenantLimited]:
    known = frozenset(await counters.tenants())
    found = []
    async with stores.database.unit_of_work(stores.actor) as work:
        for tenant in await work.tenants.list():
            if tenant.id in known:
                of_tenant, *of_keys = await work.limits(tenant.id).list()
                keys = await work.keys(tenant.id).list()
                found.append(
                    TenantLimited(
                        tenant,
                        of_tenant.limits,
                        {each.key_id: each.limits for each in of_keys if each.key_id is not None},
                        {key.id: key.prefix for key in keys},
                    )
                )
    return found


async def _count(counters: LimitCounters, limited: TenantLimited) -> _Counted:
    day, month = bounds(limited.tenant.time_zone, datetime.fromtimestamp(await counters.now(), UTC))
    read = await counters.of(limited.tenant.id, day=day.current, month=month.current)
    return _Counted(limited, read, day.current, month.current)


async def _tenant(
    engine: AsyncEngine, counted: _Counted, records: Mapping[RequestId, UsageRecord]
) -> TenantSeen:
    limited, counters = counted.limited, counted.counters
    tenant_id = limited.tenant.id
    pending = {
        request_id: record
        for request_id, record in records.items()
        if record.admission.tenant_id == tenant_id
    }
    ids = {*pending, *(each.request_id for each in counters.held)}
    periods = []
    async with snapshot(engine) as connection:
        rows = await rows_of(connection, ids, _months(pending.values(), counters.held))
        unwritten = [_charge(record) for request_id, record in pending.items() if request_id not in rows]
        for kind, start, read in (
            (LimitKind.TOKENS_PER_DAY, counted.day, counters.day),
            (LimitKind.TOKENS_PER_MONTH, counted.month, counters.month),
        ):
            window = Window.of(start, datetime.fromtimestamp(counters.now, UTC))
            edges = [
                row
                for first, past in window.edges()
                for row in await rows_between(connection, tenant_id, first, past)
            ]
            expected = taken(
                window,
                start=start,
                sums=await tokens_between(connection, tenant_id, window.first, window.last),
                summed=[_charged(row) for row in rows.values()],
                single=[*unwritten, *map(_charged, edges)],
                held=counters.held,
            )
            periods.append(Period(kind, start, read, expected))
    return TenantSeen(limited, counters, tuple(periods), rows)


def _records(
    directory: DirectoryLook, stream: StreamLook, dead: Iterable[DeadBatch]
) -> Iterator[UsageRecord]:
    for journal in directory.journals:
        yield from (each.record for each in journal.settled)
    for kept in directory.kept:
        yield from kept.records
    for waiting in stream.batches:
        yield from records_in(waiting.payload)[0]
    for batch in dead:
        yield from records_in(batch.payload)[0]


def _months(records: Iterable[UsageRecord], held: Iterable[HeldTokens]) -> set[date]:
    months = {record.admission.period for record in records}
    for each in held:
        reserved = datetime.fromtimestamp(each.at, UTC)
        months |= {first_of_month(reserved - _ADMITTED_WITHIN), first_of_month(reserved + _ADMITTED_WITHIN)}
    return months


def _charge(record: UsageRecord) -> Charge:
    admission, settlement = record.admission, record.settlement
    tokens = settlement.tokens_in + settlement.tokens_out
    return Charge(admission.request_id, admission.key_id, tokens, admission.started_at)


def _charged(row: LedgerRow) -> Charge:
    return Charge(row.request_id, row.key_id, row.tokens, row.started_at)
