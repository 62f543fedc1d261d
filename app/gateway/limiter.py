"""Stage 3's limits: take a reservation before the backend is asked, settle the fact afterwards.

Redis decides (`db/redis/limits.py`). Where it lost its memory the counters are made anew (`app/gateway/recounts.py`),
and while it cannot be asked this process's share of every limit has to do (`app/gateway/shares.py`).
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from redis.exceptions import RedisError

from app.gateway.holdings import Holdings, tokens_of
from app.gateway.live_processes import LiveProcesses
from app.gateway.patience import Patience
from app.gateway.recounts import NotRecounted, ReadsLedger, Recounts
from app.gateway.settlements import Settlements
from app.gateway.shares import OutageShares
from db.redis.limit_recounts import LimitRecounts
from db.redis.limits import LimitStore, OutsidePeriods
from db.redis.multiplex import RedisUnreached
from db.redis.recount_board import RecountBoard
from domain.errors import LimitExceeded
from domain.limits import Admitted, Ask, Held, LimitState, PeriodBounds, Refused
from domain.periods import bounds
from domain.usage import UsageRecord
from domain.values import KeyId, Principal, RequestId, TenantId

MAX_TRIES: Final = 4
ASK_AGAIN_S: Final = 0.01
MAX_TRACKED: Final = 20_000


_NEVER: Final = PeriodBounds(0, 0, 0, 0)


class _Silence(NamedTuple):
    """Redis decided nothing: why, and whether it may hold the reservation nevertheless."""

    reason: str
    may_hold: bool


class Limiter:
    """The limits of this process's requests.

    Parameters
    ----------
    store, recounts, board
        What Redis is asked and told under this process's name.
    processes
        The app processes that live.
    ledger
        What Postgres knows to be spent.
    unconfirmed
        Settled records of this process that Postgres may not have yet.
    on_shared
        Is told of each request that was let in without asking Redis.
    """

    def __init__(
        self,
        store: LimitStore,
        recounts: LimitRecounts,
        board: RecountBoard,
        *,
        processes: LiveProcesses,
        ledger: ReadsLedger,
        unconfirmed: Callable[[], Iterable[UsageRecord]],
        on_shared: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._processes = processes
        self._patience = Patience(timeout_s=store.redis.timeout_s)
        self._scopes = recounts
        self._settlements = Settlements(store, recounts)
        self._holdings = Holdings(unconfirmed=unconfirmed, late=self._settlements.late)
        declare = self._holdings.declare
        self._recounts = Recounts(recounts, board, processes=processes, ledger=ledger, declare=declare)
        self._shares = OutageShares(processes=processes, ledger=ledger, declare=declare, on_taken=on_shared)
        # Seen without a limit of their own: whatever Redis has of them may lack requests that took nothing.
        self._untracked: set[TenantId | KeyId] = set()
        self._zones: dict[TenantId, str] = {}
        # Whose counters are known to be right: nothing was left untracked since the principal was looked at.
        self._tracked: dict[KeyId, Principal] = {}
        self._periods: dict[str, tuple[PeriodBounds, PeriodBounds]] = {}

    def concerns(self, principal: Principal) -> bool:
        """Tell whether a request has to `take` anything."""
        return _is_limited(principal) or principal.key_id not in self._untracked

    @property
    def processes(self) -> int:
        """Among how many processes limits are shared while Redis is away."""
        return self._processes.shares.processes

    @property
    def shared_tenants(self) -> int:
        """Of how many tenants this process decides by its share, because Redis could not be asked last time."""
        return len(self._shares)

    def smallest_token_limit(self, principal: Principal) -> int | None:
        """Return the smallest whole token limit that applies."""
        found = (principal.tenant_limits.smallest_token_limit(), principal.key_limits.smallest_token_limit())
        return min((limit for limit in found if limit is not None), default=None)

    async def take(self, principal: Principal, request_id: RequestId, tokens: int) -> Sequence[LimitState]:
        """Reserve what a request may come to, and return how its limits stand; nothing where none is set.

        Raises
        ------
        LimitExceeded
            A limit does not let it in. Nothing is reserved.
        Unavailable
            Redis cannot be asked, and this process's share does not do or is not known.
        """
        tenant_id = principal.tenant_id
        if tenant_id is None or not self.concerns(principal):
            return ()
        if not _is_limited(principal):
            await self._leave_untracked(tenant_id, principal.key_id)
            return ()
        ask = self._ask(principal, tenant_id, request_id, tokens, self._now_s())
        answer = await self._asked(ask, principal)
        if not isinstance(answer, _Silence):
            return answer
        at = int(self._now_s())
        try:
            states = await self._shares.take(ask, at, reason=answer.reason)
        except BaseException:
            if answer.may_hold:
                # Redis may have made the reservation although nobody heard of it.
                self._settlements.settle(tenant_id, request_id, 0, is_owed=False)
            raise
        held = Held(ask, at)
        self._holdings.opened(held)
        self._settlements.hold(held)
        return states

    async def _asked(self, ask: Ask, principal: Principal) -> "Sequence[LimitState] | _Silence":
        """Ask Redis, again as long as its silence may be a moment's; return that it decides nothing if so."""
        may_hold = False
        while True:
            asked_at = time.monotonic()
            try:
                return await self._exactly(ask, principal, again=may_hold)
            except NotRecounted as missing:
                return _Silence(missing.reason, may_hold)
            except RedisError as exc:
                # Redis may have made the reservation although nobody heard of it.
                may_hold = may_hold or not isinstance(exc, RedisUnreached)
                if self._patience.is_over(exc, asked_at=asked_at):
                    return _Silence("redis_unreachable", may_hold)
                await asyncio.sleep(ASK_AGAIN_S)

    async def _exactly(self, ask: Ask, principal: Principal, *, again: bool) -> Sequence[LimitState]:
        """Ask Redis once.

        Raises
        ------
        LimitExceeded
            As above.
        NotRecounted, RedisError
            Redis does not know, or is away.
        """
        if principal is not self._tracked.get(principal.key_id):
            await self._track(principal, ask.tenant_id)
        if self._shares:
            await self._reconcile(ask.tenant_id)
        for _ in range(MAX_TRIES):
            try:
                answer = await self._store.take(ask, again=again)
            except OutsidePeriods as outside:
                ask = self._ask(principal, ask.tenant_id, ask.request_id, ask.tokens, outside.now_s)
                continue
            if isinstance(answer, Admitted):
                self._decided(ask, answer.states)
                self._holdings.opened(Held(ask, answer.at))
                return answer.states
            if isinstance(answer, Refused):
                self._decided(ask, answer.states)
                raise LimitExceeded(answer)
            await self._recounts.made(ask.tenant_id, ask.day, ask.month)
        raise NotRecounted("recounts_are_lost")

    async def _reconcile(self, tenant_id: TenantId) -> None:
        """Have everybody tell what was let in without Redis, before Redis decides again."""
        began = self._shares.since(tenant_id)
        if began is not None and not self._holdings.declared_since(tenant_id, began):
            await self._store.forget(tenant_id)

    def _decided(self, ask: Ask, states: Sequence[LimitState]) -> None:
        self._patience.answered()
        self._holdings.saw(ask.tenant_id, ask.key_id, states)
        if self._shares:
            self._shares.over(ask.tenant_id)

    def _ask(
        self, principal: Principal, tenant_id: TenantId, request_id: RequestId, tokens: int, now_s: float
    ) -> Ask:
        zone = principal.time_zone
        day, month = self._periods.get(zone, (_NEVER, _NEVER))
        if not (day.current <= now_s < day.next and month.current <= now_s < month.next):
            day, month = self._periods[zone] = bounds(zone, datetime.fromtimestamp(now_s, UTC))
        tenant_limits, key_limits = principal.tenant_limits, principal.key_limits
        return Ask(request_id, tenant_id, principal.key_id, tenant_limits, key_limits, tokens, day, month)

    def _now_s(self) -> float:
        """Return the time by Redis's clock as far as it is known."""
        return self._store.now_s or time.time()

    async def _track(self, principal: Principal, tenant_id: TenantId) -> None:
        """Have the counters made anew if they cannot be right: days of another zone, or requests nobody counted."""
        is_tenants, is_keys = principal.tenant_limits.any_set(), principal.key_limits.any_set()
        # By whatever process they went uncounted, this one before it was last started included.
        scopes = (*([None] if is_tenants else []), *([principal.key_id] if is_keys else []))
        await self._scopes.count_from_now(tenant_id, scopes)
        limited: set[TenantId | KeyId] = {principal.key_id} if is_keys else set()
        if is_tenants:
            limited.add(tenant_id)
        elif tenant_id not in self._untracked:
            self._tracked.clear()
            self._untracked.add(tenant_id)
        stale = limited & self._untracked
        zone = self._zones.setdefault(tenant_id, principal.time_zone)
        if not stale and zone == principal.time_zone:
            if len(self._tracked) >= MAX_TRACKED:
                self._tracked.clear()
            self._tracked[principal.key_id] = principal
            return
        # Noted before it is done, so that requests that come meanwhile do not do it again.
        self._tracked.clear()
        self._untracked -= stale
        self._zones[tenant_id] = principal.time_zone
        try:
            await self._store.forget(tenant_id)
        except BaseException:
            self._untracked |= stale
            self._zones[tenant_id] = zone
            raise

    async def _leave_untracked(self, tenant_id: TenantId, key_id: KeyId) -> None:
        """Have the counters made anew when limits are set one day: nobody counts meanwhile."""
        self._tracked.clear()
        self._untracked |= {tenant_id, key_id}
        try:
            await self._scopes.leave_uncounted(tenant_id, key_id)
        except RedisError:
            self._untracked.discard(key_id)

    def settle(self, tenant_id: TenantId, request_id: RequestId, tokens: int) -> None:
        """Replace a reservation by the fact, soon. Where nothing is reserved it changes nothing."""
        held = self._holdings.closed(request_id)
        if held is not None:
            self._shares.settle(held, tokens)
        # With nothing else to do Redis is told at once, or the next question would wait while it settles.
        self._settlements.settle(
            tenant_id, request_id, tokens, is_owed=held is not None, lazily=bool(self._holdings)
        )

    def settle_adopted(self, record: UsageRecord) -> None:
        """Settle a request of a dead process, unless that did so itself before it died."""
        admission = record.admission
        self._settlements.settle(admission.tenant_id, admission.request_id, tokens_of(record), is_owed=True)

    async def keep_settling(self) -> None:
        """Hand settlements to Redis for ever; while it is away they wait."""
        await self._settlements.keep_settling()

    async def settle_waiting(self) -> bool:
        """Hand everything over that waits; return False if Redis did not take all of it."""
        return await self._settlements.hand_over()

    async def answer_recounts(self) -> None:
        """Take part in the recounts of other processes, for ever."""
        await self._recounts.answer()

    async def aclose(self) -> None:
        """Give up recounts that are under way."""
        await self._recounts.aclose()


class AdoptedRecords:
    """Settles what dead processes may not have settled: every record of theirs that Postgres may not have yet.

    Journals are adopted from the first moment on, the limiter comes a little later; until then records wait here.
    """

    def __init__(self) -> None:
        self._limiter: Limiter | None = None
        self._waiting: list[UsageRecord] = []

    def settle(self, records: Sequence[UsageRecord]) -> None:
        """Settle the records of one adopted journal."""
        if self._limiter is None:
            self._waiting.extend(records)
            return
        for record in records:
            self._limiter.settle_adopted(record)

    def hand_to(self, limiter: Limiter) -> None:
        """Settle with this limiter what waits and what comes."""
        self._limiter = limiter
        waiting, self._waiting = self._waiting, []
        self.settle(waiting)


def _is_limited(principal: Principal) -> bool:
    return principal.tenant_limits.any_set() or principal.key_limits.any_set()
