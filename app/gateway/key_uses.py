"""When keys were last used: noted for nothing on the request path, written rarely and together.

The same write brings digests up to date: a key that an older pepper proved is stored under the newest from then
on, so that an old pepper can be retired.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import structlog

from domain.tenants import Found, KeyUse
from domain.values import KeyId

WRITE_INTERVAL_S: Final = 5.0
NOTE_AGAIN_AFTER_S: Final = 60.0
"""A key in constant use is written once in this time: whoever reads it wants to know the day, not the second."""
MAX_NOTED: Final = 100_000

Find = Callable[[tuple[bytes, ...]], Awaitable[Found]]

_log = structlog.get_logger()


class KeyUses:
    """Collects uses and hands them to `touch`. `minting_id` is the pepper that digests should be under."""

    def __init__(
        self,
        *,
        touch: Callable[[Sequence[KeyUse]], Awaitable[None]],
        minting_id: str,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._touch = touch
        self._minting_id = minting_id
        self._now = now
        self._noted: dict[UUID, float] = {}
        self._pending: dict[UUID, KeyUse] = {}

    def note(self, key_id: KeyId) -> None:
        """Note that a key was used just now."""
        now = self._now()
        if self._noted.get(key_id, float("-inf")) > now - NOTE_AGAIN_AFTER_S:
            return
        if len(self._noted) >= MAX_NOTED:
            self._noted.clear()
        self._noted[key_id] = now
        known = self._pending.get(key_id)
        self._pending[key_id] = KeyUse(key_id, datetime.now(UTC), known.redigest if known else None)

    def watching(self, find: Find) -> Find:
        """Return `find`, noting each key that an older pepper proved: its digest is replaced by the newest."""

        async def find_and_note(digests: tuple[bytes, ...]) -> Found:
            found = await find(digests)
            if found.principal is not None and found.pepper_id not in {None, self._minting_id}:
                key_id = found.principal.key_id
                self._pending[key_id] = KeyUse(key_id, datetime.now(UTC), (self._minting_id, digests[0]))
            return found

        return find_and_note

    async def keep_writing(self) -> None:
        """Write every few seconds, for ever."""
        while True:
            await asyncio.sleep(WRITE_INTERVAL_S)
            await self.write()

    async def write(self) -> None:
        """Write what was noted. What the database does not take now is written with the next."""
        pending, self._pending = self._pending, {}
        if not pending:
            return
        try:
            await self._touch(tuple(pending.values()))
        except Exception as exc:  # noqa: BLE001 - a hint must never hurt; whatever the driver raises, we try again
            self._pending = {**pending, **self._pending}
            _log.warning("key_uses_not_written", keys=len(pending), error=type(exc).__name__)
