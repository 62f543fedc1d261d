"""App processes as far as limits go: several limiters over the same stores, which hear each other."""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Self
from uuid import uuid4

import msgspec
from pydantic import SecretStr
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine
from uuid_utils.compat import uuid7

from app.gateway.limiter import Limiter
from app.gateway.live_processes import LiveProcesses
from db.redis.connection import connect_patient, own_channel
from db.redis.limit_recounts import LimitRecounts
from db.redis.limits import LimitStore
from db.redis.multiplex import MultiplexedRedis
from db.redis.recount_board import CHANNEL, RecountBoard
from db.tasks import end
from db.usage import UsageRows
from domain.errors import LimitExceeded, Unavailable
from domain.limits import Limits
from domain.usage import UsageRecord
from domain.values import KeyId, Principal, RequestId, TenantId
from tests.support.clock import Clock
from tests.support.ledger_records import admission, settlement
from tests.support.principals import principal

NOWHERE = "redis://127.0.0.1:1"
EACH = 30
"""Tokens of one record."""
A_DAY = 10_000
"""The limit of who is limited and no more is said."""
WITHIN_S = 10.0


class Process:
    """One process: its limiter, and the settled records that Postgres may not have."""

    def __init__(self, world: "Limiters", name: str) -> None:
        self.name = name
        self.unconfirmed: list[UsageRecord] = []
        self._world = world
        self.redis = MultiplexedRedis(SecretStr(world.url), timeout_s=world.timeout_s)
        self.processes = LiveProcesses(name, seen=world.seen, now=world.clock)
        self.limiter = Limiter(
            LimitStore(self.redis, process_id=name),
            LimitRecounts(self.redis, process_id=name),
            RecountBoard(world.patient, process_id=name),
            processes=self.processes,
            ledger=world.spent,
            unconfirmed=lambda: self.unconfirmed,
        )
        self._answering: asyncio.Task[None] | None = None

    async def start(self) -> Self:
        """Live, and answer the calls of others."""
        self._world.live.add(self.name)
        self._answering = asyncio.create_task(self.limiter.answer_recounts())
        await self.processes.look()
        return self

    async def stop(self, *, gone: bool = True) -> None:
        """End; unless it is `gone`, the others still think that it lives."""
        if gone:
            self._world.live.discard(self.name)
        if self._answering is not None:
            await end(self._answering)
        await self.limiter.aclose()
        await self.redis.aclose()

    async def take(self, who: Principal, tokens: int = 0) -> RequestId:
        """Reserve so many tokens for a new request and return its id."""
        request_id = RequestId(uuid7())
        await self.limiter.take(who, request_id, tokens)
        return request_id

    async def left(self, who: Principal) -> int:
        """Return what is left of the one limit of a caller, changing nothing."""
        try:
            await self.limiter.take(who, RequestId(uuid7()), 10**9)
        except LimitExceeded as refused:
            (state,) = refused.refused.states
            return state.remaining
        raise AssertionError("so much cannot be left")


class Limiters:
    """The stores that processes share; the reads of the ledger are counted and can be held up."""

    def __init__(self, engine: AsyncEngine, url: str, *, timeout_s: float = 5.0) -> None:
        self.url = url
        self.timeout_s = timeout_s
        self.patient: Redis = connect_patient(SecretStr(url))
        self.rows = UsageRows(engine)
        self.live: set[str] = set()
        self.clock = Clock()
        self._processes: list[Process] = []
        self.reads = 0
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.broken = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        await self.patient.aclose()

    async def process(self) -> Process:
        """Start one more process and have all others know of it."""
        process = Process(self, str(uuid4()))
        self._stack.push_async_callback(process.stop)
        await process.start()
        self._processes.append(process)
        await self.look()
        # Who subscribes is not told when Redis has taken it.
        async with asyncio.timeout(10):
            while await self._listening() < len(self.live):  # noqa: ASYNC110 - Redis sets no event of ours
                await asyncio.sleep(0.002)
        return process

    async def look(self, *, after_s: int = 0) -> None:
        """Have every process look who lives, as each second does."""
        for second in range(after_s + 1):
            self.clock.at += min(second, 1)
            for process in self._processes:
                await process.processes.look()

    async def _listening(self) -> int:
        ((_, listeners),) = await self.patient.pubsub_numsub(own_channel(self.patient, CHANNEL))
        return int(listeners)

    async def seen(self) -> frozenset[str]:
        """Return the processes that report."""
        return frozenset(self.live)

    async def spent(
        self, tenant_id: TenantId, *, since: Collection[datetime], without: Collection[RequestId] = ()
    ) -> Mapping[datetime, Mapping[KeyId, int]]:
        """Read the ledger."""
        self.reads += 1
        await self.may_read.wait()
        if self.broken:
            raise OSError("Postgres is away")
        return await self.rows.spent(tenant_id, since=since, without=without)


def limited(**limits: int) -> Principal:
    """Return a caller whose tenant has these limits, `A_DAY` if none are named."""
    return principal(tenant_limits=Limits(**(limits or {"tokens_per_day": A_DAY})))


async def handed_over(*processes: Process) -> None:
    """Return once Redis has what processes have to tell it."""
    for process in processes:
        async with asyncio.timeout(WITHIN_S):
            while not await process.limiter.settle_waiting():  # noqa: ASYNC110 - the limiter has no event of ours
                await asyncio.sleep(0.02)


async def exact(process: Process, who: Principal) -> int:
    """Return what is left once Redis itself has decided it."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                left = await process.left(who)
            except Unavailable:
                left = -1
            if left >= 0 and not process.limiter.shared_tenants:
                return left
            await asyncio.sleep(0.01)


def limiter_of_nobody() -> Limiter:
    """Build a limiter that nobody may ask anything: its stores do not exist."""
    redis = MultiplexedRedis(SecretStr(NOWHERE), timeout_s=1)
    return Limiter(
        LimitStore(redis, process_id="test"),
        LimitRecounts(redis, process_id="test"),
        RecountBoard(connect_patient(SecretStr(NOWHERE)), process_id="test"),
        processes=LiveProcesses("test", seen=_nobody),
        ledger=_nothing_spent,
        unconfirmed=tuple,
    )


async def _nobody() -> frozenset[str]:
    return frozenset()


async def _nothing_spent(
    tenant_id: TenantId, *, since: Collection[datetime], without: Collection[RequestId] = ()
) -> Mapping[datetime, Mapping[KeyId, int]]:
    raise AssertionError(f"nobody is limited here: {tenant_id}, {since}, {without}")


def record_of(who: Principal, request_id: RequestId | None = None) -> UsageRecord:
    """Build the record of a request that a caller made just now."""
    assert who.tenant_id is not None
    asked = admission(datetime.now(UTC), tenant=who.tenant_id, key=who.key_id)
    if request_id is not None:
        asked = msgspec.structs.replace(asked, request_id=request_id)
    return UsageRecord(asked, settlement())
