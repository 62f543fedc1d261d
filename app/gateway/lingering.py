"""Letting a client finish before it is refused early.

A connection that is closed while bytes of its client wait unread is reset, and the client may lose an answer that has
arrived already. So whoever is refused before its body was read has the rest of it taken and dropped first, for a while.
"""

import asyncio
from contextlib import suppress
from typing import Final

from litestar.types import Receive

LONGEST_S: Final = 2.0
SILENCE_S: Final = 0.25
"""Who sends nothing for so long is told at once: it may be waiting for the answer."""
MOST_BYTES: Final = 32 * 1024 * 1024
MOST_CLIENTS: Final = 256
"""How many are let finish at the same time in one process; further ones are refused at once and may not hear it."""


class Lingering:
    """The clients of one process that still send what nobody will read."""

    def __init__(self) -> None:
        self._clients = 0

    async def let_finish(self, receive: Receive) -> None:
        """Drop what a client still sends until it is done, leaves, falls silent, takes too long, or sent enough."""
        if self._clients >= MOST_CLIENTS:
            return
        self._clients += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(LONGEST_S):
                    await _drop(receive)
        finally:
            self._clients -= 1


async def _drop(receive: Receive) -> None:
    dropped = 0
    while dropped < MOST_BYTES:
        async with asyncio.timeout(SILENCE_S):
            event = await receive()
        if event["type"] != "http.request" or not event["more_body"]:
            return
        dropped += len(event["body"])
