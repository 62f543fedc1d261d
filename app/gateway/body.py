"""Reading a request body within its size and time, and within what the whole process may hold."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from litestar.types import Receive

from app.gateway.aside import Aside, in_steps
from app.gateway.body_room import BodyHold, BodyRoom
from app.gateway.call import Call
from app.gateway.zstd_body import ZstdBody
from domain.errors import BodyTooLarge, BodyTooSlow, GatewayError, Unavailable, UnsupportedEncoding
from domain.lifting import Lifted, lift

LARGE_BYTES: Final = 256 * 1024
"""From this size on a body is put together and parsed so that the event loop goes on: below, that takes it less than a
millisecond."""
SWEEP_INTERVAL_S: Final = 1.0
GIVES_WAY_AFTER_S: Final = 1.0
"""A body that has been arriving for so long may have to give way to others; a quick one never has to."""
LONGEST_WAIT_FOR_ROOM_S: Final = 2 * GIVES_WAY_AFTER_S
"""Long enough for any body that stopped arriving to be found out."""
LOOKS_AGAIN_AFTER_S: Final = 0.1
RETRY_AFTER_S: Final = 2
TEXT_SHARE: Final = 4
"""A body without images may have this part of the largest body."""
_MIB: Final = 1024 * 1024
UNCOMPRESSED: Final = (
    "Send the body uncompressed, or on a /v1 route as zstd: this Content-Encoding is not supported here."
)
TOO_SLOW: Final = "The body did not arrive in time."
_PLAIN: Final = frozenset({b"identity", b""})
_ZSTD: Final = b"zstd"
_ZSTD_PATHS: Final = b"/v1/"
"""Where Ollama itself decodes zstd, as Codex sends it."""

Parsed = TypeVar("Parsed")


class ClientLeft(Exception):  # noqa: N818 - nobody's failure
    """The client closed its connection before its request was complete."""


class BodyCut(ClientLeft):
    """The body ended before it was complete: its client left, or its chunks are broken. Both look alike from here."""


class _Arriving(NamedTuple):
    """A body that is being read: until when it has to be here, and what of it is."""

    deadline: float
    hold: BodyHold


class _PlainBody:
    """Takes a body as it comes."""

    __slots__ = ("_pieces",)
    is_behind: Final = False
    """Whether more comes of the bytes it was fed than it has taken."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def feed(self, piece: bytes) -> int:
        """Take the next bytes, and tell how many are held now because of them."""
        self._pieces.append(piece)
        return len(piece)

    def whole(self) -> bytes:
        """Return the body."""
        pieces = self._pieces
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Bodies:
    """Reads bodies, each within `max_bytes` and `base_timeout_s` plus one second per MiB it may have.

    All together hold at most `max_buffered_bytes`. When they are full, newcomers wait a moment, and the bodies that
    have kept the most room occupied for the longest while still arriving give way: whoever stops in the middle of
    large uploads takes room from nobody for long.

    One sweep a second looks after the deadlines of all bodies, because a timer for each would cost a small
    request more than reading it.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        base_timeout_s: float,
        max_buffered_bytes: int,
        longest_wait_for_room_s: float = LONGEST_WAIT_FOR_ROOM_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        # Asking for the running loop costs a system call each time on Python 3.11.
        self._loop = asyncio.get_running_loop()
        self._max_bytes = max_bytes
        self._base_timeout_s = base_timeout_s
        self._longest_wait_s = longest_wait_for_room_s
        self._room = BodyRoom(max_buffered_bytes)
        self._aside = Aside()
        self._turn = asyncio.Lock()
        self._arriving: dict[asyncio.Task[Any], _Arriving] = {}
        self._ended: dict[asyncio.Task[Any], GatewayError] = {}

    @property
    def max_text_bytes(self) -> int:
        """How large a body may be that holds no images."""
        return self._max_bytes // TEXT_SHARE

    @property
    def buffered_bytes(self) -> int:
        """How many bytes of bodies are held now."""
        return self._room.used_bytes

    async def read(self, call: Call, receive: Receive, *, at_most: int | None = None) -> bytes:
        """Return the whole body; what it holds is given back through the hold that the call has from then on.

        `at_most` is the limit of a route that needs less than others.

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
        Unavailable
            This process holds too many bytes of other bodies, or this one had to give way to them.
        BodyCut
            It ended before it was complete.
        """
        limit = self._max_bytes if at_most is None else min(at_most, self._max_bytes)
        body = _PlainBody() if call.content_encoding in _PLAIN else _zstd(call, limit)
        length = call.body_length
        if length is not None and length > limit:
            raise too_large(limit)
        task = asyncio.current_task(self._loop)
        if task is None:
            raise RuntimeError("a body is read inside a task")
        now = self._now()
        hold = call.hold = BodyHold(self._room, now)
        deadline = now + self._base_timeout_s + (limit if length is None else length) / _MIB
        self._arriving[task] = _Arriving(deadline, hold)
        try:
            await self._collect(receive, body, hold, limit=limit, length=length)
        except asyncio.CancelledError:
            refusal = self._ended.get(task)
            if refusal is None or task.uncancel():
                raise
            hold.give_back()  # before the client has been told, which may take it a while
            raise refusal from None
        finally:
            self._ended.pop(task, None)
            del self._arriving[task]
        call.body_is_read = True
        return body.whole() if hold.held_bytes < LARGE_BYTES else await self._aside.run(body.whole)

    async def parse(self, parse: Callable[[bytes | Lifted], Parsed], body: bytes) -> Parsed:
        """Return what `parse` makes of a body. Large ones take turns: only one at a time takes more than its own room.

        Raises
        ------
        BadRequest
            As `parse` says.
        """
        if len(body) < LARGE_BYTES:
            return parse(body)
        async with self._turn:
            return await self._aside.run(partial(parse, await in_steps(lift(body))))

    def close(self) -> None:
        """Let go of what helps with large bodies."""
        self._aside.close()

    async def sweep(self) -> None:
        """Give up on late bodies, for ever."""
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            self.give_up_late()

    def give_up_late(self) -> None:
        """End the reading of every body whose time is over."""
        now = self._now()
        for task, arriving in self._arriving.items():
            if arriving.deadline < now:
                self._end(task, BodyTooSlow(TOO_SLOW))

    async def _collect(
        self, receive: Receive, body: _PlainBody | ZstdBody, hold: BodyHold, *, limit: int, length: int | None
    ) -> None:
        """Read the body; one of a known length is complete with its last byte, without asking for its end."""
        size = 0
        while True:
            event = await receive()
            if event["type"] != "http.request":
                raise BodyCut
            piece = event["body"]
            size += len(piece)
            if size > limit:
                raise too_large(limit)
            if piece:
                await self._keep(body.feed(piece), hold)
                while body.is_behind:
                    await asyncio.sleep(0)
                    await self._keep(body.feed(b""), hold)
            if not event["more_body"] or size == length:
                return

    async def _keep(self, grown: int, hold: BodyHold) -> None:
        if not hold.grow(grown):
            await self._wait_for_room(hold, grown)

    async def _wait_for_room(self, hold: BodyHold, needed: int) -> None:
        try:
            async with asyncio.timeout(self._longest_wait_s):
                while not hold.grow(needed):
                    self._make_way(hold, needed)
                    await self._room.change(within_s=LOOKS_AGAIN_AFTER_S)
        except TimeoutError:
            raise Unavailable("body_room_full", RETRY_AFTER_S) from None

    def _make_way(self, newcomer: BodyHold, needed: int) -> None:
        """End bodies that are still arriving until enough room will be free, or none is left to end."""
        now = self._now()
        missing = self._room.used_bytes + needed - self._room.max_bytes
        missing -= sum(self._arriving[task].hold.held_bytes for task in self._ended)
        idle = [
            (each.hold.held_bytes * (now - each.hold.since), each.hold.held_bytes, task)
            for task, each in self._arriving.items()
            if task not in self._ended
            and each.hold is not newcomer
            and each.hold.held_bytes
            and now - each.hold.since >= GIVES_WAY_AFTER_S
        ]
        idle.sort(key=lambda each: each[0], reverse=True)
        for _, held, task in idle:
            if missing <= 0:
                return
            self._end(task, Unavailable("body_gave_way", RETRY_AFTER_S))
            missing -= held

    def _end(self, task: asyncio.Task[Any], refusal: GatewayError) -> None:
        if task not in self._ended:
            self._ended[task] = refusal
            task.cancel()


def _zstd(call: Call, max_bytes: int) -> ZstdBody:
    if call.content_encoding != _ZSTD or not call.raw_path.startswith(_ZSTD_PATHS):
        raise UnsupportedEncoding(UNCOMPRESSED)
    return ZstdBody(max_bytes=max_bytes)


def too_large(limit: int) -> BodyTooLarge:
    """Return how a body of more bytes than that is refused."""
    return BodyTooLarge(f"The body is larger than the limit of {limit} bytes.")
