"""Telling Redis what requests came to: soon, until it has taken it, and once.

Nobody waits for it. A settlement is queued and repeated until Redis answers; it is keyed by request id, so that the
adopter of a dead process's journal may do the same again.
"""

import asyncio
from collections.abc import Awaitable, Iterable
from itertools import islice
from typing import Final

import structlog
from redis.exceptions import RedisError

from db.redis.limit_recounts import LimitRecounts
from db.redis.limits import LimitStore
from domain.limits import Held
from domain.recounts import Charge
from domain.values import RequestId, TenantId

AGAIN_S: Final = 0.25
AT_ONCE: Final = 256

_log = structlog.get_logger()


class _Pending:
    """What Redis has yet to hear of one request.

    `held` is its reservation if Redis was not asked for one; `tokens` what it came to, None while it runs. `is_owed`
    says that Redis must know of it: if it does not, the tenant's counters cannot be right.
    """

    __slots__ = ("held", "is_owed", "tenant_id", "tokens")

    def __init__(self, tenant_id: TenantId, held: Held | None, tokens: int | None, *, is_owed: bool) -> None:
        self.tenant_id = tenant_id
        self.held = held
        self.tokens = tokens
        self.is_owed = is_owed


class Settlements:
    """The settlements that this process owes Redis, in order."""

    def __init__(self, store: LimitStore, recounts: LimitRecounts) -> None:
        self._store = store
        self._recounts = recounts
        self._pending: dict[RequestId, _Pending] = {}
        self._doubtful: set[TenantId] = set()
        self._failing = False
        self._unanswered = 0
        self._all_answered = asyncio.Event()
        self._all_answered.set()
        self._waiting = asyncio.Event()
        self._handing_over = asyncio.Lock()

    def hold(self, held: Held) -> None:
        """Enter a request that was let in without asking Redis."""
        self._add(held.ask.request_id, _Pending(held.ask.tenant_id, held, None, is_owed=False))

    def settle(
        self, tenant_id: TenantId, request_id: RequestId, tokens: int, *, is_owed: bool, lazily: bool = True
    ) -> None:
        """Replace a reservation by the fact.

        Parameters
        ----------
        is_owed
            Whether Redis ought to hold the reservation. Where it does not, the tenant's limits are counted anew.
        lazily
            Whether it may wait for company, which is cheaper for this process and slower for whoever asks next.
        """
        known = self._pending.get(request_id)
        if known is None:
            pending = _Pending(tenant_id, None, tokens, is_owed=is_owed)
            if self._pending or not self._told(request_id, pending, lazily=lazily):
                # Behind all that waits: what began comes before what ended.
                self._add(request_id, pending)
        elif known.tokens is None:
            # Redis never heard that it began: it is told both at once.
            self._add(request_id, _Pending(tenant_id, known.held, tokens, is_owed=False))

    def late(self, tenant_id: TenantId) -> Iterable[Charge]:
        """Return what was let in without asking Redis, has ended, and Redis does not know."""
        for request_id, each in self._pending.items():
            if each.tenant_id == tenant_id and each.held is not None and each.tokens is not None:
                yield Charge(request_id, each.held.ask.key_id, each.tokens, each.held.at)

    async def keep_settling(self) -> None:
        """Hand settlements to Redis for ever; while it is away they wait."""
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            if not await self._hand_over_waiting():
                await asyncio.sleep(AGAIN_S)
                self._waiting.set()

    async def hand_over(self) -> bool:
        """Hand everything over and hear that it was taken; return False if Redis did not take all of it.

        While requests end all the time it need not return.
        """
        if not await self._hand_over_waiting():
            return False
        await self._all_answered.wait()
        return await self._hand_over_waiting()

    async def _hand_over_waiting(self) -> bool:
        async with self._handing_over:
            while self._pending or self._doubtful:
                if not (await self._some() and await self._forget_doubtful()):
                    return False
        return True

    def _told(self, request_id: RequestId, each: _Pending, *, lazily: bool) -> bool:
        """Tell Redis at once, without waiting for it; return False if it is away. What it does not answer waits."""

        def answered(found: bool | None) -> None:  # noqa: FBT001 - the answer of Redis
            self._unanswered -= 1
            if not self._unanswered:
                self._all_answered.set()
            if found is None:
                self._add(request_id, each)
            elif not found and each.is_owed:
                self._doubtful.add(each.tenant_id)
                self._waiting.set()

        tokens = each.tokens or 0
        if not self._store.settle_soon(each.tenant_id, request_id, tokens, on_answer=answered, lazily=lazily):
            return False
        self._unanswered += 1
        self._all_answered.clear()
        return True

    def _add(self, request_id: RequestId, pending: _Pending) -> None:
        self._pending[request_id] = pending
        self._waiting.set()

    async def _some(self) -> bool:
        # Left in the queue until Redis has answered: a cancelled hand-over is repeated.
        batch = list(islice(self._pending.items(), AT_ONCE))
        answers = await asyncio.gather(
            *(self._tell(request_id, each) for request_id, each in batch), return_exceptions=True
        )
        for (request_id, each), answer in zip(batch, answers, strict=True):
            if isinstance(answer, BaseException):
                continue
            if answer is False and each.is_owed:
                self._doubtful.add(each.tenant_id)
            current = self._pending.get(request_id)
            if current is each:
                del self._pending[request_id]
            elif current is not None:
                # It ended while Redis was told that it began.
                self._pending[request_id] = _Pending(current.tenant_id, None, current.tokens, is_owed=True)
        return self._went_well(
            next((answer for answer in answers if isinstance(answer, BaseException)), None)
        )

    def _tell(self, request_id: RequestId, each: _Pending) -> Awaitable[bool | None]:
        if each.held is None:
            return self._store.settle(each.tenant_id, request_id, each.tokens or 0)
        if each.tokens is None:
            return self._recounts.hold(each.held)
        return self._recounts.book(each.held, each.tokens)

    async def _forget_doubtful(self) -> bool:
        """Have the counters made anew that lack something they ought to hold."""
        while self._doubtful:
            tenant_id = next(iter(self._doubtful))
            try:
                await self._store.forget(tenant_id)
            except RedisError as exc:
                return self._went_well(exc)
            self._doubtful.discard(tenant_id)
            _log.info("limits_doubted", tenant_id=str(tenant_id))
        return True

    def _went_well(self, failure: BaseException | None) -> bool:
        if failure is not None and not self._failing:
            _log.warning("settlements_wait", error=type(failure).__name__, waiting=len(self._pending))
        elif failure is None and self._failing:
            _log.info("settlements_taken_again")
        self._failing = failure is not None
        return failure is None
