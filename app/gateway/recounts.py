"""Making a tenant's counters anew when Redis does not know them.

Whoever finds them missing asks every app process what it holds, reads the ledger for the rest, and tells Redis the
whole. Nothing is granted by counters that lack somebody's part: while a process that is thought to live has not
answered, every process makes do with its share (`app/gateway/shares.py`).
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec
import structlog
from redis.exceptions import RedisError

from app.gateway.live_processes import GONE_AFTER_S, LiveProcesses
from db.redis.limit_recounts import LimitRecounts, MemoryLost
from db.redis.recount_board import RecountBoard, RecountCall
from db.tasks import end
from domain.limits import PeriodBounds
from domain.recounts import Declaration, declared, recount
from domain.values import KeyId, RequestId, TenantId

WAIT_S: Final = 1.0
"""How long after a recount began requests wait for it, before they make do with their process's share."""
AGAIN_S: Final = 1.0
"""A recount that failed is not tried again for so long: what it needs is away."""
CALL_AGAIN_S: Final = 0.25
LOOK_S: Final = 0.002
LISTEN_AGAIN_S: Final = 0.5

_log = structlog.get_logger()


class ReadsLedger(Protocol):
    """What the ledger knows of a tenant's tokens, by key, since some moments and without some requests."""

    async def __call__(
        self, tenant_id: TenantId, *, since: Collection[datetime], without: Collection[RequestId] = ()
    ) -> Mapping[datetime, Mapping[KeyId, int]]:
        """Return them. Raises whatever the database raises when it is away."""


class NotRecounted(Exception):  # noqa: N818 - reads as what happened
    """The counters are not there yet; `reason` is a constant for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _reason(failure: BaseException) -> str:
    is_redis = isinstance(failure, RedisError | msgspec.MsgspecError)
    return "redis_unreachable" if is_redis else "ledger_unreachable"


class Recounts:
    """The recounts that this process makes, and its part in those of others.

    Parameters
    ----------
    declare
        Returns what this process holds of a tenant.
    """

    def __init__(
        self,
        redis: LimitRecounts,
        board: RecountBoard,
        *,
        processes: LiveProcesses,
        ledger: ReadsLedger,
        declare: Callable[[TenantId], Declaration],
    ) -> None:
        self._redis = redis
        self._board = board
        self._processes = processes
        self._ledger = ledger
        self._declare = declare
        self._running: dict[TenantId, tuple[asyncio.Task[None], float]] = {}
        # Not the failure itself: raised again and again it would hold on to all requests that heard of it.
        self._failed: dict[TenantId, tuple[str, float]] = {}
        self._deaf = False

    async def made(self, tenant_id: TenantId, day: PeriodBounds, month: PeriodBounds) -> None:
        """Return when a tenant's counters are there again; requests that miss them at once share one recount.

        Raises
        ------
        NotRecounted
            They are not there within `WAIT_S`. The recount goes on.
        """
        now = asyncio.get_running_loop().time()
        reason, not_before = self._failed.get(tenant_id, ("", now))
        if now < not_before:
            raise NotRecounted(reason)
        if tenant_id not in self._running:
            wait_until = now + WAIT_S
            counting = asyncio.create_task(self._make(tenant_id, day, month))
            counting.add_done_callback(lambda done: self._made(tenant_id, done))
            self._running[tenant_id] = counting, wait_until
        counting, wait_until = self._running[tenant_id]
        try:
            async with asyncio.timeout_at(wait_until):
                await asyncio.shield(counting)
        except TimeoutError as exc:
            raise NotRecounted("recount_takes_long") from exc
        except Exception as exc:
            # What it was stands in the log; others need not wait for the same again at once.
            raise NotRecounted(_reason(exc)) from exc

    async def aclose(self) -> None:
        """Give up what is being counted."""
        await end(*(counting for counting, _ in self._running.values()))

    def _made(self, tenant_id: TenantId, done: "asyncio.Task[None]") -> None:
        del self._running[tenant_id]
        if done.cancelled():
            return
        failure = done.exception()
        if failure is None:
            self._failed.pop(tenant_id, None)
            return
        if tenant_id not in self._failed:
            _log.warning("limits_not_recounted", tenant_id=str(tenant_id), error=type(failure).__name__)
        self._failed[tenant_id] = _reason(failure), asyncio.get_running_loop().time() + AGAIN_S

    async def _make(self, tenant_id: TenantId, day: PeriodBounds, month: PeriodBounds) -> None:
        while True:
            with suppress(MemoryLost):
                await self._try(tenant_id, day, month)
                return

    async def _try(self, tenant_id: TenantId, day: PeriodBounds, month: PeriodBounds) -> None:
        call = self._board.new_call(tenant_id)
        if not await self._redis.mark(tenant_id, call.id):
            return
        await self._board.declare(call, self._declare(tenant_id))
        missing = await self._asked_all(call)
        declarations = await self._board.declarations(call)
        starts = {start for each in (day, month) for start in (each.previous, each.current, each.next)}
        ledger = await self._read_ledger(tenant_id, starts, declared(declarations.values()))
        whole = recount(declarations, ledger=ledger, day=day, month=month)
        if await self._redis.begin(tenant_id, call.id, whole):
            _log.info(
                "limits_recounted",
                tenant_id=str(tenant_id),
                processes=len(declarations),
                missing=sorted(missing),
                running=len(whole.running),
                ended=len(whole.ended),
            )
        with suppress(RedisError, OSError):
            await self._board.discard(call)

    async def _read_ledger(
        self, tenant_id: TenantId, starts: Collection[int], declared_ones: frozenset[RequestId]
    ) -> dict[int, Mapping[KeyId, int]]:
        """Return what the ledger has spent since each start, without what is counted already."""
        moments = {start: datetime.fromtimestamp(start, UTC) for start in starts}
        counted = declared_ones | await self._redis.heard_of(tenant_id)
        while True:
            ledger = await self._ledger(tenant_id, since=tuple(moments.values()), without=counted)
            # One that Redis has heard of since may have been accounted before it was read.
            heard = await self._redis.heard_of(tenant_id)
            if heard <= counted:
                return {start: ledger[moment] for start, moment in moments.items()}
            counted |= heard

    async def _asked_all(self, call: RecountCall) -> frozenset[str]:
        """Ask until every live process has answered; return those that stayed silent until they count as gone."""
        if not self._processes.are_known:
            await self._processes.look()
        now = asyncio.get_running_loop().time
        silent_until, call_at = now() + GONE_AFTER_S, now()
        while missing := self._processes.names - await self._board.who_declared(call):
            if now() >= silent_until:
                return missing
            if now() >= call_at:
                await self._board.call(call)
                call_at = now() + CALL_AGAIN_S
            await asyncio.sleep(LOOK_S)
        return frozenset()

    async def answer(self) -> None:
        """Declare what this process holds whenever another asks, for ever; listens again after a pause."""
        while True:
            try:
                async with self._board.calls() as calls:
                    self._deaf = False
                    async for call in calls:
                        await self._board.declare(call, self._declare(call.tenant_id))
            except (RedisError, OSError, msgspec.MsgspecError) as exc:
                if not self._deaf:
                    _log.warning("recounts_not_heard", error=type(exc).__name__)
                self._deaf = True
            await asyncio.sleep(LISTEN_AGAIN_S)
