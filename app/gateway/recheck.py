"""Cutting what runs already: a revocation reaches the streams of a key, not only its next request."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from uuid import UUID

import structlog

from app.gateway.exchanges import CutReason, Exchange, Exchanges, Subject
from domain.errors import Unavailable

_log = structlog.get_logger()


class Recheck:
    """Asks for each running exchange that a revocation names whether it would be let in now.

    It stands behind the key ring in the list of caches, so that asking reads what is true now. Where nobody can
    be asked the exchange runs on: Postgres was reachable when it began, and the revocation will be seen again.
    """

    def __init__(self, exchanges: Exchanges, still_allowed: Callable[[Subject], Awaitable[bool]]) -> None:
        self._exchanges = exchanges
        self._still_allowed = still_allowed
        self._tasks: set[asyncio.Task[None]] = set()

    def drop_key(self, key_id: UUID) -> None:
        """Look at the exchanges of one key."""
        self._start(exchange for exchange in self._exchanges if exchange.subject.key_id == key_id)

    def drop_tenant(self, tenant_id: UUID) -> None:
        """Look at the exchanges of one tenant's keys."""
        self._start(exchange for exchange in self._exchanges if exchange.subject.tenant_id == tenant_id)

    def drop_all(self) -> None:
        """Look at every exchange."""
        self._start(self._exchanges)

    def _start(self, concerned: Iterable[Exchange]) -> None:
        for exchange in concerned:
            task = asyncio.create_task(self._check(exchange))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _check(self, exchange: Exchange) -> None:
        try:
            allowed = await self._still_allowed(exchange.subject)
        except Unavailable:
            _log.warning("recheck_not_possible", key_id=str(exchange.subject.key_id))
            return
        if not allowed:
            exchange.cut(CutReason.REVOKED)
