"""Where the relay looks keys up: this process's memory, then Redis, then Postgres.

Every cached answer remembers the revocation sequence number it was read at, and an answer older than what
this process knows is never stored, so a request that began before a revocation cannot bring the key back.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol
from uuid import UUID

import structlog

from app.gateway.revocations import RevocationFollower
from domain.errors import Unavailable
from domain.values import Principal

MAX_ENTRIES: Final = 100_000
MAX_UNKNOWN: Final = 10_000
"""Unknown keys have a bound of their own, so that a guesser cannot push real keys out of memory."""
UNKNOWN_TTL_S: Final = 5.0
OUTAGE_GRACE_S: Final = 60.0
"""How long cached keys work while Postgres cannot confirm the revocation sequence."""
AWAY_AFTER_S: Final = 3.0
"""Postgres is asked every second, and has two for its answer: after this long it counts as out of reach."""
_MAX_READS: Final = 3

_log = structlog.get_logger()


class Found(Protocol):
    """What a store knows of a digest, and the sequence number of the same read."""

    @property
    def principal(self) -> Principal | None: ...  # noqa: D102
    @property
    def seq(self) -> int: ...  # noqa: D102


class SharedCache(Protocol):
    """The cache that app processes share. It may fail at any time; then it is not there."""

    async def get(self, digest: bytes) -> Found | None:
        """Return an entry, None if there is none or the cache is out of reach."""

    async def put(self, digest: bytes, principal: Principal, seq: int) -> None:
        """Store an entry; failures are silent."""


class KeyRing:
    """The port `KeyStore` for the relay. One look-up per unknown digest runs at a time."""

    def __init__(
        self,
        *,
        find: Callable[[tuple[bytes, ...]], Awaitable[Found]],
        shared: SharedCache,
        revocations: RevocationFollower,
        redis_is_away: Callable[[], bool] = lambda: False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take `now` in the seconds of the follower's clock."""
        self._redis_is_away = redis_is_away
        self._find = find
        self._shared = shared
        self._revocations = revocations
        self._now = now
        self._entries: dict[bytes, Principal] = {}
        self._unknown: dict[bytes, float] = {}
        self._by_key: dict[UUID, bytes] = {}
        self._by_tenant: dict[UUID, set[bytes]] = {}
        self._running: dict[bytes, asyncio.Task[Principal | None]] = {}
        revocations.add_cache(self)

    def remembered(self, digest: bytes) -> Principal | None:
        """Return a principal from memory while Postgres has confirmed the revocation sequence recently."""
        principal = self._entries.get(digest)
        if principal is None or self._reason_not_to_trust() is not None:
            return None
        return principal

    async def find_by_digest(self, digests: tuple[bytes, ...]) -> Principal | None:
        """Return the principal, from memory when it is there and Postgres confirmed recently.

        Raises
        ------
        Unavailable
            Postgres has been out of reach for longer than the grace, or is now and so is Redis, or the key is in no
            cache.
        """
        digest = digests[0]
        now = self._now()
        if (reason := self._reason_not_to_trust()) is not None:
            raise Unavailable(reason)
        principal = self._entries.get(digest)
        if principal is not None:
            return principal
        if self._unknown.get(digest, now) > now:
            return None
        running = self._running.get(digest)
        if running is None:
            running = self._running[digest] = asyncio.create_task(self._look_up(digests))
            running.add_done_callback(lambda done: self._looked_up(digest, done))
        return await asyncio.shield(running)

    def _reason_not_to_trust(self) -> str | None:
        """Tell why what is cached must not be used, None if it may."""
        silent_s = self._now() - self._revocations.confirmed_at
        if silent_s <= AWAY_AFTER_S:
            return None
        if silent_s > OUTAGE_GRACE_S:
            return "key_store_unreachable"
        # With both stores away nobody revokes and nobody counts: no new work.
        return "stores_unreachable" if self._redis_is_away() else None

    def _looked_up(self, digest: bytes, done: asyncio.Task[Principal | None]) -> None:
        del self._running[digest]
        if not done.cancelled():
            done.exception()  # whoever asked may have left; then nobody else takes note of it

    async def _look_up(self, digests: tuple[bytes, ...]) -> Principal | None:
        digest = digests[0]
        shared = await self._shared.get(digest)
        if shared is not None and shared.principal is not None and self._is_known_true(shared):
            self._remember(digest, shared.principal)
            return shared.principal
        reads = 0
        while True:
            found = await self._read(digests)
            reads += 1
            if found.principal is not None and self._is_true(found):
                await self._shared.put(digest, found.principal, found.seq)
            # Asked only now, because a revocation may have arrived while we wrote.
            if self._is_true(found):
                self._remember(digest, found.principal)
                return found.principal
            if reads == _MAX_READS:
                # This key changes faster than we can read: the last answer is moments old, and not kept.
                return found.principal

    def _is_true(self, found: Found) -> bool:
        """Tell whether nothing this process knows of has outdated what was read. Who is unknown may have changed."""
        if found.principal is None:
            return found.seq >= self._revocations.seq
        return not self._revocations.outdates(found.principal, found.seq)

    def _is_known_true(self, shared: Found) -> bool:
        """Tell the same of what others stored. What is ahead of us may also be left from before a restore."""
        return shared.seq <= self._revocations.seq and self._is_true(shared)

    async def _read(self, digests: tuple[bytes, ...]) -> Found:
        try:
            return await self._find(digests)
        except Exception as exc:
            _log.warning("key_lookup_failed", error=type(exc).__name__)
            raise Unavailable("key_store_unreachable") from exc

    def _remember(self, digest: bytes, principal: Principal | None) -> None:
        self._unknown.pop(digest, None)
        if principal is None:
            if len(self._unknown) >= MAX_UNKNOWN:
                del self._unknown[next(iter(self._unknown))]
            self._unknown[digest] = self._now() + UNKNOWN_TTL_S
            return
        if len(self._entries) >= MAX_ENTRIES:
            self._forget(next(iter(self._entries)))
        self._entries[digest] = principal
        self._by_key[principal.key_id] = digest
        if principal.tenant_id is not None:
            self._by_tenant.setdefault(principal.tenant_id, set()).add(digest)

    def _forget(self, digest: bytes) -> None:
        principal = self._entries.pop(digest, None)
        if principal is None:
            return
        self._by_key.pop(principal.key_id, None)
        if principal.tenant_id is not None:
            of_tenant = self._by_tenant.get(principal.tenant_id, set())
            of_tenant.discard(digest)
            if not of_tenant:
                self._by_tenant.pop(principal.tenant_id, None)

    def drop_key(self, key_id: UUID, *, ended: bool) -> None:
        """Forget one key, so that its next request asks again, or is refused at once if the key has ended."""
        self._unknown.clear()
        digest = self._by_key.get(key_id)
        if digest is not None:
            self._forget(digest)
            if ended:
                self._remember(digest, None)

    def drop_tenant(self, tenant_id: UUID, *, ended: bool) -> None:
        """Forget every key of a tenant in the same way. Keys that were unknown may work from now on."""
        self._unknown.clear()
        for digest in tuple(self._by_tenant.get(tenant_id, ())):
            self._forget(digest)
            if ended:
                self._remember(digest, None)

    def drop_all(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._unknown.clear()
        self._by_key.clear()
        self._by_tenant.clear()
