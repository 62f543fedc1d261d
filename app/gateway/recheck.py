"""Cutting what runs already: a revocation reaches the streams of a key, not only its next request."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final
from uuid import UUID

import structlog

from app.gateway.exchanges import CutReason, Exchange, Exchanges, Subject
from domain.errors import Unavailable

ASK_AGAIN_S: Final = 0.5

_log = structlog.get_logger()


class Recheck:
    """Asks for each running exchange that a revocation names whether it would be let in now; cuts it if not.

    Where the revocation itself says that the key has ended, there is nothing to ask.
    It stands behind the key ring in the list of caches, so that asking reads what is true now. While nobody can
    be asked the exchange runs on, and is asked about again: its revocation is named only once.

    Parameters
    ----------
    exchanges
        What runs.
    objection
        Returns why an exchange would be refused now, None if it would not; raises `Unavailable`.
    on_cut
        Is told of each exchange that was cut.
    """

    def __init__(
        self,
        exchanges: Exchanges,
        objection: Callable[[Subject], Awaitable[CutReason | None]],
        *,
        on_cut: Callable[[CutReason], None] = lambda _: None,
    ) -> None:
        self._exchanges = exchanges
        self._objection = objection
        self._on_cut = on_cut
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_done(self) -> bool:
        """Whether nothing is being asked about."""
        return not self._tasks

    async def done(self) -> None:
        """Wait until everything that is being asked about now has been cut or found allowed."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def drop_key(self, key_id: UUID, *, ended: bool) -> None:
        """Look at the exchanges of one key."""
        self._start([each for each in self._exchanges if each.subject.key_id == key_id], ended=ended)

    def drop_tenant(self, tenant_id: UUID, *, ended: bool) -> None:
        """Look at the exchanges of one tenant's keys."""
        self._start([each for each in self._exchanges if each.subject.tenant_id == tenant_id], ended=ended)

    def drop_all(self) -> None:
        """Look at every exchange."""
        self._start(self._exchanges, ended=False)

    def _start(self, concerned: Iterable[Exchange], *, ended: bool) -> None:
        for exchange in concerned:
            if ended:
                self._cut(exchange, CutReason.REVOKED)
                continue
            task = asyncio.create_task(self._check(exchange))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _cut(self, exchange: Exchange, reason: CutReason) -> None:
        if exchange.cut(reason):
            self._on_cut(reason)

    async def _check(self, exchange: Exchange) -> None:
        told = False
        while not exchange.closed:
            try:
                objection = await self._objection(exchange.subject)
            except Unavailable:
                if not told:
                    _log.warning("recheck_not_possible", key_id=str(exchange.subject.key_id))
                told = True
                await asyncio.sleep(ASK_AGAIN_S)
                continue
            if objection is not None:
                self._cut(exchange, objection)
            return
