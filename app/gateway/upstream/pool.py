"""The open connections of one backend."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from app.gateway.upstream.protocol import Connection
from domain.errors import Sent, UpstreamFailed

_SLOWEST_SWEEP_S = 1.0
_FASTEST_SWEEP_S = 0.005
_SWEEPS_PER_DEADLINE = 10
_CLOSE_WITHIN_S = 1.0


class ConnectionPool:
    """At most `max_connections` sockets, the most recently used first.

    One coarse timer walks over all connections instead of each wait arming its own: a request then pays
    nothing for its deadlines. They are met late by at most a tenth of the shortest of them, never
    by more than 1 s.

    Parameters
    ----------
    connect
        Opens one connection that reports to this pool.
    max_connections
        Sockets at once, busy and idle.
    patience_s
        Longest wait for one of them to become free.
    max_idle_s
        Longest rest between two requests; after it the connection is closed.
    shortest_deadline_s
        The smallest deadline a connection may set, in seconds.
    """

    def __init__(
        self,
        connect: Callable[["ConnectionPool"], Awaitable[Connection]],
        *,
        max_connections: int,
        patience_s: float,
        max_idle_s: float,
        shortest_deadline_s: float,
    ) -> None:
        if max_connections < 1:
            raise ValueError("max_connections must be at least 1")
        self._connect = connect
        self._max_connections = max_connections
        self._patience_s = patience_s
        self._max_idle_s = max_idle_s
        pause_s = min(shortest_deadline_s, max_idle_s) / _SWEEPS_PER_DEADLINE
        self._sweep_every_s = min(max(pause_s, _FASTEST_SWEEP_S), _SLOWEST_SWEEP_S)
        self._open: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        self._connecting = 0
        self._waiters: dict[asyncio.Future[Connection | None], None] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Event | None = None
        self._closed = False

    @property
    def busy(self) -> int:
        """How many connections carry a request, or are being opened for one."""
        return len(self._open) - len(self._idle) + self._connecting

    def take_idle(self) -> Connection | None:
        """Return the connection that was used last, if one is free right now."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.alive:
                return connection
        return None

    async def acquire(self, *, fresh: bool = False) -> Connection:
        """Return a new connection, or one handed over by its last user when no more may be opened.

        Parameters
        ----------
        fresh
            Never return one that has carried a request.

        Raises
        ------
        UpstreamFailed
            `pool_exhausted`, `closed`, or why connecting failed; nothing was sent.
        """
        if self._closed:
            raise UpstreamFailed("closed", Sent.NOTHING)
        give_up_at = asyncio.get_running_loop().time() + self._patience_s
        while len(self._open) + self._connecting >= self._max_connections:
            handed = await self._turn(give_up_at)
            if handed is None:
                return await self._open_reserved()
            if handed.alive and not fresh:
                return handed
            if handed.alive:
                self._open.discard(handed)
                handed.fail("closed")
        self._connecting += 1
        return await self._open_reserved()

    def released(self, connection: Connection) -> None:
        """Take back a connection that can carry another request."""
        if self._closed:
            connection.fail("closed")
            return
        waiter = self._next_waiter()
        if waiter is not None:
            waiter.set_result(connection)
            return
        connection.deadline = asyncio.get_running_loop().time() + self._max_idle_s
        self._idle[connection] = None

    def lost(self, connection: Connection) -> None:
        """Forget a connection whose socket is closed."""
        if connection not in self._open:
            return
        self._open.discard(connection)
        self._idle.pop(connection, None)
        self._offer_slot()
        if not self._open and self._emptied is not None:
            self._emptied.set()

    async def aclose(self) -> None:
        """Abort every connection, whoever uses it, and wait until the sockets are closed."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for waiter in tuple(self._waiters):
            if not waiter.done():
                waiter.set_exception(UpstreamFailed("closed", Sent.NOTHING))
        self._idle.clear()
        if not self._open:
            return
        self._emptied = asyncio.Event()
        for connection in tuple(self._open):
            connection.fail("closed")
        with suppress(TimeoutError):  # all are aborted already; a slow loop only closes them later
            async with asyncio.timeout(_CLOSE_WITHIN_S):
                await self._emptied.wait()

    async def _turn(self, give_up_at: float) -> Connection | None:
        """Wait for a connection, or for the right to open one (None); that slot is then reserved."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Connection | None] = loop.create_future()
        self._waiters[waiter] = None
        timer = loop.call_at(give_up_at, _give_up, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            # The turn may have come in the very moment of the cancellation: pass it on.
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._return_turn(waiter.result())
            raise
        finally:
            timer.cancel()
            self._waiters.pop(waiter, None)

    def _return_turn(self, turn: Connection | None) -> None:
        if turn is None:
            self._connecting -= 1
            self._offer_slot()
        elif turn.alive:
            self.released(turn)

    def _next_waiter(self) -> asyncio.Future[Connection | None] | None:
        while self._waiters:
            waiter = next(iter(self._waiters))
            del self._waiters[waiter]
            if not waiter.done():
                return waiter
        return None

    def _offer_slot(self) -> None:
        waiter = self._next_waiter()
        if waiter is not None:
            self._connecting += 1
            waiter.set_result(None)

    async def _open_reserved(self) -> Connection:
        try:
            connection = await self._connect(self)
        except BaseException:
            self._connecting -= 1
            self._offer_slot()
            raise
        self._connecting -= 1
        if self._closed or not connection.alive:
            connection.fail("closed")
            self._offer_slot()
            raise UpstreamFailed("closed", Sent.NOTHING)
        self._open.add(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(self._sweep_every_s, self._sweep)
        return connection

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in tuple(self._open):
            if connection.deadline <= now:
                connection.expire()
        self._sweeper = loop.call_later(self._sweep_every_s, self._sweep) if self._open else None


def _give_up(waiter: asyncio.Future[Connection | None]) -> None:
    if not waiter.done():
        waiter.set_exception(UpstreamFailed("pool_exhausted", Sent.NOTHING))
