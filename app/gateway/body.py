"""Reading a request body within its size and time."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from litestar.types import Receive

from app.gateway.call import Call
from app.gateway.zstd_body import ZstdBody
from domain.errors import BodyTooLarge, BodyTooSlow, UnsupportedEncoding

SWEEP_INTERVAL_S: Final = 1.0
_MIB: Final = 1024 * 1024
_PLAIN: Final = frozenset({b"identity", b""})
_ZSTD: Final = b"zstd"
_ZSTD_PATHS: Final = b"/v1/"
"""Where Ollama itself decodes zstd, as Codex sends it."""


class ClientLeft(Exception):  # noqa: N818 - nobody's failure
    """The client closed its connection before its request was complete."""


class BodyCut(ClientLeft):
    """The body ended before it was complete: its client left, or its chunks are broken. Both look alike from here."""


class Bodies:
    """Reads bodies, each within `max_bytes` and `base_timeout_s` plus one second per MiB it may have.

    One sweep a second looks after the deadlines of all bodies, because a timer for each would cost a small
    request more than reading it.
    """

    def __init__(
        self, *, max_bytes: int, base_timeout_s: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._now = now
        # Asking for the running loop costs a system call each time on Python 3.11.
        self._loop = asyncio.get_running_loop()
        self._max_bytes = max_bytes
        self._base_timeout_s = base_timeout_s
        self._deadlines: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()

    async def read(self, call: Call, receive: Receive) -> bytes:
        """Return the whole body.

        Raises
        ------
        UnsupportedEncoding
            The body is compressed in a way that its route does not take.
        BodyTooLarge
            It exceeds the limit, as it came or decoded; a Content-Length that says so is refused before anything
            is read.
        BadRequest
            Its compression is broken.
        BodyTooSlow
            It did not arrive in time.
        BodyCut
            It ended before it was complete.
        """
        zstd = None if call.content_encoding in _PLAIN else self._zstd(call)
        pieces: list[bytes] = []
        length = call.body_length
        if length is not None and length > self._max_bytes:
            raise self._too_large()
        task = asyncio.current_task(self._loop)
        if task is None:
            raise RuntimeError("a body is read inside a task")
        allowed = self._max_bytes if length is None else length
        self._deadlines[task] = self._now() + self._base_timeout_s + allowed / _MIB
        try:
            await self._collect(receive, length, pieces.append if zstd is None else zstd.feed)
        except asyncio.CancelledError:
            if task not in self._late or task.uncancel():
                raise
            raise BodyTooSlow("The body did not arrive in time.") from None
        finally:
            self._late.discard(task)
            del self._deadlines[task]
        if zstd is not None:
            return zstd.whole()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def sweep(self) -> None:
        """Give up on late bodies, for ever."""
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            self.give_up_late()

    def give_up_late(self) -> None:
        """End the reading of every body whose time is over."""
        now = self._now()
        for task, deadline in self._deadlines.items():
            if deadline < now and task not in self._late:
                self._late.add(task)
                task.cancel()

    async def _collect(self, receive: Receive, length: int | None, keep: Callable[[bytes], None]) -> None:
        """Read the body; one of a known length is complete with its last byte, without asking for its end."""
        size = 0
        while True:
            event = await receive()
            if event["type"] != "http.request":
                raise BodyCut
            piece = event["body"]
            size += len(piece)
            if size > self._max_bytes:
                raise self._too_large()
            if piece:
                keep(piece)
            if not event["more_body"] or size == length:
                return

    def _zstd(self, call: Call) -> ZstdBody:
        if call.content_encoding != _ZSTD or not call.raw_path.startswith(_ZSTD_PATHS):
            raise UnsupportedEncoding(
                "Send the body uncompressed, or on a /v1 route as zstd: this Content-Encoding is not supported here."
            )
        return ZstdBody(max_bytes=self._max_bytes)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"The body is larger than the limit of {self._max_bytes} bytes.")
