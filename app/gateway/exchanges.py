"""The running exchanges of this process, and the reasons for which one is cut from outside.

Every exchange runs in one task. Cutting it cancels that task after noting why; the exchange itself then settles
its record, which needs no await, and says goodbye in-band where the family allows it.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final, NamedTuple
from uuid import UUID

from litestar.types import Receive

from app.gateway.client_address import ClientAddress
from app.gateway.client_watch import ClientWatch
from app.gateway.downstream import Downstream
from domain.model_names import CanonicalName

WATCH_INTERVAL_S: Final = 1.0
GOODBYE_S: Final = 2.0
"""How long an exchange that was cut may take to tell its client."""


WATCH_CLIENTS_AFTER_S: Final = 0.01
"""Exchanges younger than this are not watched: to watch a client costs a third of what a short answer does, and
nobody notices that its backend worked for a hundredth of a second more."""

Task = asyncio.Task[object]


class CutReason(Enum):
    """Why an exchange ended before its answer did."""

    CLIENT_GONE = "client_gone"
    WRITE_STALLED = "write_stalled"
    DRAINING = "draining"
    REVOKED = "revoked"
    FORBIDDEN = "forbidden"


class Subject(NamedTuple):
    """Who runs an exchange and what for: enough to ask again whether that is still allowed."""

    key_id: UUID
    tenant_id: UUID
    digests: tuple[bytes, ...]
    model: CanonicalName
    client_address: Callable[[], ClientAddress | None]
    in_path: bool = False


class Exchange:
    """The handle by which others reach one running exchange."""

    __slots__ = ("_receive", "_task", "_watch", "closed", "downstream", "reason", "subject")

    def __init__(self, downstream: Downstream, receive: Receive, subject: Subject, task: Task) -> None:
        self.downstream = downstream
        self.subject = subject
        self._receive = receive
        self._task = task
        self._watch: ClientWatch | None = None
        self.reason: CutReason | None = None
        self.closed = False

    def watch_client(self) -> None:
        """Notice from now on when the client leaves."""
        if not self.closed:
            self._watch = ClientWatch(self._receive, self.client_gone)

    def client_gone(self) -> None:
        """Cut the exchange because its client left."""
        self.cut(CutReason.CLIENT_GONE)

    def close(self) -> None:
        """Take the end of the exchange: nobody reaches it any more."""
        self.closed = True
        if self._watch is not None:
            self._watch.stop()

    def cut(self, reason: CutReason) -> bool:
        """Cancel the exchange once, for the first reason given; return whether that was this one."""
        if self.reason is not None or self.closed:
            return False
        self.reason = reason
        self.downstream.gone = reason in {CutReason.CLIENT_GONE, CutReason.WRITE_STALLED}
        self._task.cancel()
        return True

    def abandon(self) -> None:
        """Cancel the exchange's goodbye as well: its client does not even take that."""
        if not self.closed:
            self._task.cancel()


class Exchanges:
    """All running exchanges of this process.

    Attributes
    ----------
    draining
        The process has been told to stop. What arrives all the same, on a connection made before, is still served: it
        would be lost to a client that no other process answers.
    closed
        The time for that is over; nothing is taken any more.
    """

    def __init__(
        self, *, write_timeout_s: float, heartbeat_s: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Take `now` in the seconds of `Downstream.writing_since`.

        After `heartbeat_s` without output a client is told that its answer is still being waited for.
        """
        self._now = now
        self._running: set[Exchange] = set()
        self._write_timeout_s = write_timeout_s
        self._heartbeat_s = heartbeat_s
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()
        self._unwatched: list[Exchange] = []
        self.draining = False
        self.closed = False

    def start(self, downstream: Downstream, receive: Receive, subject: Subject) -> tuple[Exchange, Task]:
        """Register the exchange that the running task is about to make, and return both."""
        task = asyncio.current_task(self._loop)
        if task is None:
            raise RuntimeError("an exchange runs in a task")
        exchange = Exchange(downstream, receive, subject, task)
        self.add(exchange)
        return exchange, task

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Exchange]:
        return iter(self._running)

    def add(self, exchange: Exchange) -> None:
        """Register an exchange that starts."""
        self._running.add(exchange)
        self._idle.clear()
        if not self._unwatched:
            self._loop.call_later(WATCH_CLIENTS_AFTER_S, self._watch_clients)
        self._unwatched.append(exchange)

    def remove(self, exchange: Exchange) -> None:
        """Forget an exchange that ended."""
        exchange.close()
        self._running.discard(exchange)
        if not self._running:
            self._idle.set()

    def _watch_clients(self) -> None:
        """Begin to watch the clients of what has not ended by itself meanwhile."""
        unwatched, self._unwatched = self._unwatched, []
        for exchange in unwatched:
            exchange.watch_client()

    async def watch(self) -> None:
        """Cut exchanges whose client has not taken a write for too long, and let others hear. Runs until cancelled."""
        while True:
            await asyncio.sleep(min(WATCH_INTERVAL_S, self._heartbeat_s / 2))
            self.cut_stalled()
            self.beat()

    def beat(self) -> None:
        """Send a heartbeat wherever nothing was sent for so long, as far as one is safe there."""
        since = self._now() - self._heartbeat_s
        for exchange in self._running:
            if exchange.reason is None and exchange.downstream.is_silent(since):
                exchange.downstream.beat()

    def cut_stalled(self) -> None:
        """Cut every exchange whose current write has taken too long.

        One that was cut before, and cannot get rid of its goodbye, is abandoned.
        """
        limit = self._now() - self._write_timeout_s
        for exchange in tuple(self._running):
            if 0.0 < exchange.downstream.writing_since < limit:
                if exchange.reason is None:
                    exchange.cut(CutReason.WRITE_STALLED)
                else:
                    exchange.abandon()

    async def drain(self, deadline_s: float, *, goodbye_s: float = GOODBYE_S) -> None:
        """Let running exchanges finish until the deadline, then cut the rest and wait for their goodbyes."""
        self.draining = True
        idle = await self._idle_within(deadline_s)
        self.closed = True
        if idle:
            return
        for exchange in tuple(self._running):
            exchange.cut(CutReason.DRAINING)
        if await self._idle_within(goodbye_s):
            return
        for exchange in tuple(self._running):
            exchange.abandon()
        await self._idle.wait()

    async def _idle_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
