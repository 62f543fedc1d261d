"""Stage 3's limits: take a reservation before the backend is asked, settle the fact afterwards.

Redis decides (`db/redis/limits.py`); Postgres knows what was spent when Redis does not. Settling waits for
nobody: it is queued, repeated until Redis has taken it, and idempotent by request id, so that the adopter of a
dead process's journal may do it again.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Final

import structlog
from redis.exceptions import RedisError

from db.redis.limits import LimitStore, OutsidePeriods
from db.redis.multiplex import RedisUnreached
from domain.errors import LimitExceeded, Unavailable
from domain.limits import Admitted, Ask, LimitKind, LimitState, PeriodBounds, Refused, Spent
from domain.periods import bounds
from domain.usage import UsageRecord
from domain.values import KeyId, Principal, RequestId, TenantId

MAX_TRIES: Final = 4
SETTLE_AGAIN_S: Final = 0.25
SETTLED_AT_ONCE: Final = 256

_log = structlog.get_logger()


class Limiter:
    """The limits of this process's requests.

    Parameters
    ----------
    spent
        Tokens by key of a tenant's requests since a moment, as Postgres knows them.
    unconfirmed
        Settled records of this process that Postgres may not have yet.
    """

    def __init__(
        self,
        store: LimitStore,
        *,
        spent: Callable[[TenantId, datetime], Awaitable[Mapping[KeyId, int]]],
        unconfirmed: Callable[[], Iterable[UsageRecord]],
    ) -> None:
        self._store = store
        self._spent = spent
        self._unconfirmed = unconfirmed
        # Seen without a limit of their own: whatever Redis has of them may lack requests that took nothing.
        self._untracked: set[TenantId | KeyId] = set()
        self._zones: dict[TenantId, str] = {}
        self._beginning: dict[TenantId, asyncio.Task[None]] = {}
        self._settlements: deque[tuple[TenantId, RequestId, int]] = deque()
        self._waiting = asyncio.Event()
        self._settling = asyncio.Lock()

    def concerns(self, principal: Principal) -> bool:
        """Tell whether a request has to `take` anything."""
        return _is_limited(principal) or principal.key_id not in self._untracked

    def smallest_token_limit(self, principal: Principal) -> int | None:
        """Return the smallest whole token limit that applies."""
        found = (principal.tenant_limits.smallest_token_limit(), principal.key_limits.smallest_token_limit())
        return min((limit for limit in found if limit is not None), default=None)

    async def take(self, principal: Principal, request_id: RequestId, tokens: int) -> tuple[LimitState, ...]:
        """Reserve what a request may come to, and return how its limits stand; nothing where none is set.

        Raises
        ------
        LimitExceeded
            A limit does not let it in. Nothing is reserved.
        Unavailable
            Redis or, where Redis has lost its memory, Postgres cannot be asked.
        """
        tenant_id = principal.tenant_id
        if tenant_id is None or not self.concerns(principal):
            return ()
        if not _is_limited(principal):
            await self._leave_untracked(tenant_id, principal.key_id)
            return ()
        try:
            return await self._take(principal, tenant_id, request_id, tokens)
        except RedisError as exc:
            if not isinstance(exc, RedisUnreached):
                # The reservation may have been made although nobody heard of it.
                self.settle(tenant_id, request_id, 0)
            _log.warning("limits_unreachable", error=type(exc).__name__)
            raise Unavailable("limits_unreachable") from exc

    async def _take(
        self, principal: Principal, tenant_id: TenantId, request_id: RequestId, tokens: int
    ) -> tuple[LimitState, ...]:
        await self._track(principal, tenant_id)
        now_s = self._store.now_s or time.time()
        for _ in range(MAX_TRIES):
            day, month = bounds(principal.time_zone, datetime.fromtimestamp(now_s, UTC))
            ask = Ask(
                request_id, tenant_id, principal.key_id, principal.tenant_limits, principal.key_limits,
                tokens, day, month,
            )  # fmt: skip
            try:
                answer = await self._store.take(ask)
            except OutsidePeriods as outside:
                now_s = outside.now_s
                continue
            if isinstance(answer, Admitted):
                return answer.states
            if isinstance(answer, Refused):
                raise LimitExceeded(answer)
            await self._begin(tenant_id, day, month)
        raise Unavailable("limits_unreachable")

    async def _track(self, principal: Principal, tenant_id: TenantId) -> None:
        """Have the counters made anew if they cannot be right: days of another zone, or requests nobody counted."""
        limited: set[TenantId | KeyId] = set()
        if principal.key_limits.any_set():
            limited.add(principal.key_id)
        if principal.tenant_limits.any_set():
            limited.add(tenant_id)
        else:
            self._untracked.add(tenant_id)
        stale = limited & self._untracked
        zone = self._zones.setdefault(tenant_id, principal.time_zone)
        if not stale and zone == principal.time_zone:
            return
        # Noted before it is done, so that requests that come meanwhile do not do it again.
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
        self._untracked |= {tenant_id, key_id}
        try:
            await self._store.forget(tenant_id)
        except RedisError:
            self._untracked.discard(key_id)

    async def _begin(self, tenant_id: TenantId, day: PeriodBounds, month: PeriodBounds) -> None:
        """Tell Redis what was spent. Requests that find it unknown at the same time wait for one read."""
        running = self._beginning.get(tenant_id)
        if running is None:
            running = self._beginning[tenant_id] = asyncio.create_task(self._recount(tenant_id, day, month))
            running.add_done_callback(lambda _: self._beginning.pop(tenant_id, None))
        try:
            await asyncio.shield(running)
        except (RedisError, Unavailable):
            raise
        except Exception as exc:
            _log.warning("limits_not_recounted", error=type(exc).__name__)
            raise Unavailable("limits_unreachable") from exc

    async def _recount(self, tenant_id: TenantId, day: PeriodBounds, month: PeriodBounds) -> None:
        # Read before Postgres: what arrives there meanwhile counts twice, which refuses a little early; the other
        # way round it would not count at all.
        ours = [record for record in self._unconfirmed() if record.admission.tenant_id == tenant_id]
        sums: list[Spent] = []
        for kind, period in ((LimitKind.TOKENS_PER_DAY, day), (LimitKind.TOKENS_PER_MONTH, month)):
            since_previous = await self._since(tenant_id, period.previous, ours)
            since_current = await self._since(tenant_id, period.current, ours)
            for key_id, tokens in since_previous.items():
                before = tokens - since_current.get(key_id, 0)
                sums.append(Spent(kind, period.previous, period.current, key_id, before))
                sums.append(Spent(kind, period.current, period.next, key_id, since_current.get(key_id, 0)))
            sums.append(Spent(kind, period.next, period.end, None, 0))
        await self._store.begin(tenant_id, sums)
        _log.info("limits_recounted", tenant_id=str(tenant_id))

    async def _since(
        self, tenant_id: TenantId, start: int, ours: Iterable[UsageRecord]
    ) -> dict[KeyId | None, int]:
        """Return the tokens since a moment by key, and under None those of the tenant."""
        moment = datetime.fromtimestamp(start, UTC)
        spent = await self._spent(tenant_id, moment)
        # Copied item by item: the keys of a mapping are invariant, and None joins them below.
        found: dict[KeyId | None, int] = {key_id: tokens for key_id, tokens in spent.items()}  # noqa: C416
        for record in ours:
            if record.admission.started_at >= moment:
                key_id = record.admission.key_id
                found[key_id] = found.get(key_id, 0) + tokens_of(record)
        found[None] = sum(found.values())
        return found

    def settle(self, tenant_id: TenantId, request_id: RequestId, tokens: int) -> None:
        """Replace a reservation by the fact, soon. Where nothing is reserved it changes nothing."""
        self._settlements.append((tenant_id, request_id, tokens))
        self._waiting.set()

    async def keep_settling(self) -> None:
        """Hand settlements to Redis for ever; while it is away they wait."""
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            if not await self.settle_waiting():
                await asyncio.sleep(SETTLE_AGAIN_S)
                self._waiting.set()

    async def settle_waiting(self) -> bool:
        """Hand everything over that waits; return False if Redis did not take all of it."""
        async with self._settling:
            while self._settlements:
                if not await self._settle_some():
                    return False
        return True

    async def _settle_some(self) -> bool:
        # Left in the queue until Redis has answered: a cancelled hand-over is repeated.
        batch = list(islice(self._settlements, SETTLED_AT_ONCE))
        answers = await asyncio.gather(
            *(self._store.settle(*settlement) for settlement in batch), return_exceptions=True
        )
        again = [
            settlement
            for settlement, answer in zip(batch, answers, strict=True)
            if isinstance(answer, BaseException)
        ]
        for _ in batch:
            self._settlements.popleft()
        self._settlements.extendleft(reversed(again))
        return not again


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
            self._limiter.settle(record.admission.tenant_id, record.admission.request_id, tokens_of(record))

    def hand_to(self, limiter: Limiter) -> None:
        """Settle with this limiter what waits and what comes."""
        self._limiter = limiter
        waiting, self._waiting = self._waiting, []
        self.settle(waiting)


def _is_limited(principal: Principal) -> bool:
    return principal.tenant_limits.any_set() or principal.key_limits.any_set()


def tokens_of(record: UsageRecord) -> int:
    """Return what a record is charged for."""
    return record.settlement.tokens_in + record.settlement.tokens_out
