"""Clients of our own: raw sockets, a fixed request, a strict parser, and nothing that is not counted."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import httptools

from bench.wire import OK

OPEN_WITHIN_S = 20.0
_POLL_S = 0.005


class Counts:
    """What a group of clients has seen so far. Times in seconds, one entry per finished exchange.

    `failures` counts by kind what was no good answer: the status, `lost` or `malformed`.
    """

    def __init__(self) -> None:
        self.answered = 0
        self.failures: Counter[str] = Counter()
        self.records = 0
        self.begun = 0
        self.first_byte_s: list[float] = []
        self.whole_s: list[float] = []


class Client(asyncio.Protocol):
    """One connection that sends its request again whenever the answer is complete.

    Parameters
    ----------
    request
        What is sent, head and body.
    counts
        Where it counts.
    mark
        The bytes that end one record of a stream.
    again
        Whether to go on after the first answer.
    """

    def __init__(self, request: bytes, counts: Counts, *, mark: bytes = b"\n", again: bool = True) -> None:
        self._request = request
        self._counts = counts
        self._mark = mark
        self._again = again
        self._stopped = False
        self._sent_at = 0.0
        self._first_at = 0.0
        self.began = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)
        self._send()

    def data_received(self, data: bytes) -> None:
        """Parse what came; whatever is not HTTP is a failure."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("malformed")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
        """Count an answer that never came."""
        if not self._stopped:
            self._fail("lost")

    def leave(self) -> None:
        """Close the connection at once, whatever is under way."""
        self._stopped = True
        self._transport.abort()

    def _send(self) -> None:
        self._first_at = 0.0
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def _fail(self, kind: str) -> None:
        if not self._stopped:
            self._counts.failures[kind] += 1
            self.leave()

    def on_headers_complete(self) -> None:
        """Refuse every answer but a good one."""
        status = self._parser.get_status_code()
        if status != OK:
            self._fail(str(status))

    def on_body(self, body: bytes) -> None:
        """Count records, and remember when the first bytes came."""
        self._counts.records += body.count(self._mark)
        if not self._first_at:
            self._first_at = time.perf_counter()
            self._counts.begun += 1
            self.began.set()

    def on_message_complete(self) -> None:
        """Count the answer, and ask again."""
        if self._stopped:
            return
        counts = self._counts
        counts.answered += 1
        counts.first_byte_s.append(self._first_at - self._sent_at)
        counts.whole_s.append(time.perf_counter() - self._sent_at)
        if self._again:
            self._send()
        else:
            self.leave()


@asynccontextmanager
async def clients(
    port: int, request: bytes, connections: int, *, mark: bytes = b"\n", spread_s: float = 0.0
) -> AsyncIterator[Counts]:
    """Keep clients at work while the block lasts, and leave then.

    They start at moments spread over `spread_s` seconds, so that paced streams do not beat together.
    """
    counts = Counts()
    group: list[Client] = []
    pauses = _pauses(connections, spread_s)
    try:
        for pause in pauses:
            if pause:
                await asyncio.sleep(pause)
            group.append(await connect(port, request, counts, mark=mark))
        yield counts
    finally:
        for client in group:
            client.leave()
        await asyncio.sleep(0)  # the sockets close in the next turn of the loop


async def connect(
    port: int, request: bytes, counts: Counts, *, mark: bytes = b"\n", again: bool = True
) -> Client:
    """Return a client that has sent its first request."""
    _, client = await asyncio.get_running_loop().create_connection(
        lambda: Client(request, counts, mark=mark, again=again), "127.0.0.1", port
    )
    return client


async def begun(counts: Counts, streams: int) -> None:
    """Wait until that many streams have shown their first bytes, or some have failed.

    Raises
    ------
    TimeoutError
        They have not after `OPEN_WITHIN_S` seconds.
    """
    async with asyncio.timeout(OPEN_WITHIN_S):
        while counts.begun < streams and not counts.failures:  # noqa: ASYNC110 - an event per byte would cost more
            await asyncio.sleep(_POLL_S)


def _pauses(connections: int, spread_s: float) -> Sequence[float]:
    dice = random.Random(connections)
    moments = sorted(dice.uniform(0, spread_s) for _ in range(connections))
    return [later - earlier for earlier, later in zip([0.0, *moments], moments, strict=False)]
