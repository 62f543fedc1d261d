"""The worker's own health page: `/healthz` says that the loop turns, `/readyz` that Redis answers it."""

import asyncio
import contextlib
import time
from typing import Final

from db.redis.queue import GatewayQueue

# A dequeue comes back at least every second, or, from a Redis that hangs, after ten.
TURN_LIMIT_S: Final = 20.0
REACH_LIMIT_S: Final = 12.0

_REQUEST_S: Final = 2.0
_MAX_HEAD_BYTES: Final = 8192

_ANSWERS: Final = {
    200: b"HTTP/1.1 200 OK",
    404: b"HTTP/1.1 404 Not Found",
    503: b"HTTP/1.1 503 Service Unavailable",
}


class HealthPage:
    """Answers GET and HEAD on one address, one request a connection."""

    def __init__(self, queue: GatewayQueue) -> None:
        self._queue = queue

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """Start answering.

        Raises
        ------
        OSError
            The address cannot be listened on.
        """
        return await asyncio.start_server(self._serve, host, port, limit=_MAX_HEAD_BYTES)

    def status(self, path: str) -> int:
        """Return the HTTP status of a path."""
        now = time.monotonic()
        if path == "/healthz":
            return 200 if now - self._queue.turned_at < TURN_LIMIT_S else 503
        if path == "/readyz":
            return 200 if now - self._queue.reached_at < REACH_LIMIT_S else 503
        return 404

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(
            OSError, ValueError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
        ):
            async with asyncio.timeout(_REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, _ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
                status = self.status(path.partition("?")[0]) if method in {"GET", "HEAD"} else 404
                body = b'{"status":"%s"}\n' % (b"ok" if status == 200 else b"failing")  # noqa: PLR2004
                writer.write(
                    _ANSWERS[status]
                    + b"\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
                    % len(body)
                    + (body if method == "GET" else b"")
                )
                await writer.drain()
        writer.close()
