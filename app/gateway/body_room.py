"""How many bytes of request bodies one process holds at the same time."""

import asyncio
from contextlib import suppress
from typing import Final


class BodyRoom:
    """The bytes of all bodies that a process holds, bounded by `max_bytes`.

    A body counts from its first byte until its sender was refused or a backend has begun to answer it.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes: Final = max_bytes
        self.used_bytes = 0
        self._freed = asyncio.Event()

    async def change(self, *, within_s: float) -> None:
        """Return once bytes came back, or after so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._freed.wait()

    def free(self, count: int) -> None:
        """Take bytes back, and wake whoever waits for them."""
        self.used_bytes -= count
        self._freed.set()
        self._freed.clear()


class BodyHold:
    """The bytes of one body that count, from a moment `since` on, until they are given back."""

    __slots__ = ("_room", "held_bytes", "since")

    def __init__(self, room: BodyRoom, since: float) -> None:
        self._room = room
        self.since: Final = since
        self.held_bytes = 0

    def grow(self, count: int) -> bool:
        """Count so many bytes more, if there is room for them."""
        room = self._room
        if room.used_bytes + count > room.max_bytes:
            return False
        room.used_bytes += count
        self.held_bytes += count
        return True

    def give_back(self) -> None:
        """Stop counting; once more does no harm."""
        held, self.held_bytes = self.held_bytes, 0
        if held:
            self._room.free(held)
