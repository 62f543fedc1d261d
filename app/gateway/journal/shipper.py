"""Carrying settled records to the Redis stream, and freeing what the worker has committed.

Nothing here can lose a record: it stays in its journal until its whole batch, and every batch before it, is
confirmed. Nothing here can count one twice: rows are keyed by request id.
"""

import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final
from uuid import uuid4

import anyio
import anyio.to_thread
import msgspec
import structlog
from redis.exceptions import RedisError

from app.gateway.journal.journal import Batch, Journal
from db.redis.usage_stream import BatchRange, BatchState, HolderStream, UsageStreamUnavailable

BATCH_RECORDS: Final = 512
_ENQUEUE_TIMEOUT_S: Final = 2.0

_log = structlog.get_logger()


class Pace(msgspec.Struct, frozen=True):
    """How often things happen, in seconds.

    gather: how long settled records are collected into one batch. confirm: how often Redis is asked what is
    committed, while something is not. doubt: after how long a waiting batch is looked up in the stream
    itself. retry_min, retry_max: pause after trouble with Redis, doubling. sync: the most a power loss may
    cost. adopt: how often journals of dead processes are looked for. close: how long an ending process tries
    to ship.
    """

    gather: float = 0.05
    confirm: float = 1.0
    doubt: float = 30.0
    retry_min: float = 0.05
    retry_max: float = 2.0
    sync: float = 1.0
    adopt: float = 5.0
    close: float = 5.0


class _Sent:
    """A batch on its way."""

    __slots__ = ("batch", "looked_up_at", "range")

    def __init__(self, batch: Batch, now: float) -> None:
        self.batch = batch
        self.range = BatchRange(first=batch.first, last=batch.last)
        self.looked_up_at = now


class Holding:
    """One held journal and how far its records have come.

    `name` is new for every hold: after a power loss an adopter may give a number to another record than its
    predecessor did, and must not find that number committed.
    """

    def __init__(self, journal: Journal, *, adopted: bool) -> None:
        self.journal = journal
        self.adopted = adopted
        self.name = f"{journal.path.name}.{uuid4().hex[:8]}"
        self.sent: deque[_Sent] = deque()
        self.freed: list[BatchRange] = []
        self._position = journal.tail
        self._number = journal.first_number

    @property
    def unshipped(self) -> int:
        """How many settled records have not been sent yet."""
        return self.journal.next_number - self._number

    @property
    def unconfirmed(self) -> int:
        """How many settled records are not known to be committed."""
        return self.journal.next_number - self.journal.first_number

    @property
    def is_empty(self) -> bool:
        """Whether the file may be deleted: nothing open, everything committed."""
        return not self.journal.open_count and not self.unconfirmed

    def next_batch(self, now: float) -> _Sent | None:
        """Return the next batch to send, counted as sent; None if all are."""
        batch = self.journal.cut(self._position, self._number, BATCH_RECORDS)
        if batch is None:
            return None
        sent = _Sent(batch, now)
        self.sent.append(sent)
        self._position, self._number = batch.end, batch.last + 1
        return sent

    def take_back(self, sent: _Sent) -> None:
        """Undo `next_batch`: that newest batch certainly did not leave."""
        self.sent.remove(sent)
        self._position, self._number = sent.batch.start, sent.batch.first


class Shipper:
    """Ships the records of every journal this process holds.

    Parameters
    ----------
    stream
        Where batches go.
    enqueue
        Asks for a run of `usage.account`. It may fail: the job also runs by the clock.
    pace
        How often.
    """

    def __init__(self, stream: HolderStream, enqueue: Callable[[], Awaitable[object]], pace: Pace) -> None:
        self._stream = stream
        self._enqueue = enqueue
        self._pace = pace
        self._holdings: list[Holding] = []
        self._wake = anyio.Event()
        self._awake = False
        self._confirm_at = 0.0
        self._backlogged = False
        self._trouble_s = 0.0

    @property
    def holdings(self) -> tuple[Holding, ...]:
        """Every journal held."""
        return tuple(self._holdings)

    def hold(self, journal: Journal, *, adopted: bool) -> None:
        """Ship this journal's records from now on; an adopted one is deleted once it is empty."""
        self._holdings.append(Holding(journal, adopted=adopted))
        journal.notify(self.wake)
        self.wake()

    def release(self) -> list[Holding]:
        """Stop shipping and hand every journal back."""
        holdings, self._holdings = self._holdings, []
        return holdings

    def wake(self) -> None:
        """Say that there is something to ship."""
        if not self._awake:
            self._awake = True
            self._wake.set()

    async def run(self) -> None:
        """Ship for ever; costs nothing while there is nothing to ship."""
        while True:
            await self._rest()
            await self.ship()

    async def drain(self) -> None:
        """Return when every settled record is confirmed. The caller bounds the time."""
        while any(holding.unconfirmed for holding in self._holdings):
            self._confirm_at = 0.0
            await self.ship()
            await anyio.sleep(max(self._trouble_s, self._pace.gather))

    async def ship(self) -> None:
        """Do one pass: learn what is committed, send again what was lost, send what is new."""
        self._awake = False
        self._wake = anyio.Event()
        try:
            appended = await self._pass()
        except UsageStreamUnavailable as exc:
            if not self._trouble_s:
                _log.warning("usage_shipping_paused", reason="redis", error=str(exc))
            self._trouble_s = min(max(self._trouble_s * 2, self._pace.retry_min), self._pace.retry_max)
            self._confirm_at = 0.0
            return
        if self._trouble_s:
            _log.info("usage_shipping_resumed")
            self._trouble_s = 0.0
        if appended:
            await self._ask_for_accounting()

    async def _rest(self) -> None:
        if self._trouble_s:
            await anyio.sleep(self._trouble_s)
            return
        if any(holding.sent or holding.unshipped for holding in self._holdings):
            with anyio.move_on_after(max(0.0, self._confirm_at - time.monotonic())):
                await self._wake.wait()
        else:
            await self._wake.wait()
        await anyio.sleep(self._pace.gather)

    async def _pass(self) -> bool:
        appended = False
        is_confirming = time.monotonic() >= self._confirm_at
        for holding in self.holdings:
            if is_confirming:
                appended |= await self._confirm(holding)
            if is_confirming or not self._backlogged:
                appended |= await self._append_new(holding)
            if holding.adopted and holding.is_empty:
                self._holdings.remove(holding)
                await anyio.to_thread.run_sync(holding.journal.discard)
        if is_confirming:
            self._confirm_at = time.monotonic() + self._pace.confirm
        return appended

    async def _confirm(self, holding: Holding) -> bool:
        """Free the unbroken prefix of committed batches and send again what Redis no longer knows."""
        if not holding.sent and not holding.freed:
            return False
        now = time.monotonic()
        doubted = [sent for sent in holding.sent if now - sent.looked_up_at >= self._pace.doubt]
        freed = holding.freed
        states = await self._stream.states(
            holding.name, forget=freed, doubted=[sent.range for sent in doubted]
        )
        for sent in doubted:
            sent.looked_up_at = now
        # A worker that ran twice may mark a forgotten batch again: it is forgotten once more.
        ours = {sent.range for sent in holding.sent}
        holding.freed = [batch for batch in states if batch not in ours]
        while holding.sent:
            state = states.get(holding.sent[0].range)
            if state is BatchState.DEAD:
                if not await _keep_rejected(holding, holding.sent[0]):
                    break
            elif state is not BatchState.DONE:
                break
            sent = holding.sent.popleft()
            holding.journal.free_through(sent.batch)
            holding.freed.append(sent.range)
        appended = False
        for sent in holding.sent:
            if sent.range not in states:
                if not await self._append(holding, sent):
                    break
                appended = True
        return appended

    async def _append_new(self, holding: Holding) -> bool:
        appended = False
        while (sent := holding.next_batch(time.monotonic())) is not None:
            if not await self._append(holding, sent):
                holding.take_back(sent)
                break
            appended = True
        return appended

    async def _append(self, holding: Holding, sent: _Sent) -> bool:
        records = holding.journal.payloads(sent.batch)
        is_taken = await self._stream.append(holding.name, sent.range, records)
        if is_taken == self._backlogged:
            self._backlogged = not is_taken
            event = "usage_shipping_resumed" if is_taken else "usage_shipping_paused"
            _log.warning(event, reason="backlog")
        return is_taken

    async def _ask_for_accounting(self) -> None:
        try:
            with anyio.fail_after(_ENQUEUE_TIMEOUT_S):
                await self._enqueue()
        except (RedisError, OSError) as exc:
            _log.debug("usage_account_not_enqueued", error=type(exc).__name__)


async def _keep_rejected(holding: Holding, sent: _Sent) -> bool:
    """Keep a batch the worker could not account in a file of its own, so that it blocks no other.

    Sending it again would never help, and Redis must not be its only home. Returns False if the disk refuses.
    """
    path = holding.journal.path.with_name(f"{holding.name}.{sent.range}.rejected")
    content = b"".join(holding.journal.payloads(sent.batch))
    try:
        await anyio.to_thread.run_sync(_write_durably, path, content)
    except OSError as exc:
        _log.error("usage_batch_not_kept", journal=holding.journal.path.name, error=str(exc))
        return False
    _log.error("usage_batch_rejected", journal=holding.journal.path.name, kept_as=path.name)
    return True


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
