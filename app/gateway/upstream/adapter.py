"""The port `domain.ports.Upstream` over our own transport."""

import ssl
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from app.gateway.upstream.dial import dial
from app.gateway.upstream.pool import ConnectionPool
from app.gateway.upstream.protocol import Connection
from app.gateway.upstream.request import RequestHeads, parse_origin
from domain.errors import UpstreamFailed
from domain.ports import Keeps, keeps_nothing
from domain.values import Pieces

_DEFAULT_MAX_CONNECTIONS = 1024
_DEFAULT_MAX_IDLE_S = (
    15.0  # servers close an idle connection after 60 s and more; stay well clear of that race
)
_KEEP_ALIVE_RACE = frozenset({"closed", "reset"})


class Deadlines(Protocol):
    """How long a backend may take, in seconds."""

    @property
    def connect_s(self) -> float:
        """Name look-up, connecting and TLS together; also the wait for a free connection."""

    @property
    def first_byte_s(self) -> float:
        """From the request to the end of the response head."""

    @property
    def idle_s(self) -> float:
        """Between two pieces of a body."""


class BackendAnswer:
    """One response of a backend whose head has arrived; see `domain.ports.UpstreamAnswer`."""

    __slots__ = ("_connection", "headers", "status")

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection
        self.status = connection.status
        self.headers: Mapping[bytes, bytes] = connection.headers

    def read(self) -> Coroutine[Any, Any, bytes]:
        """Return the next body bytes as soon as they arrive, b"" at the end.

        The end is proven for a body with a length or in chunks. Without either, the end is wherever the
        backend closed the connection, which looks the same as its death: the caller must know a terminator.

        Raises
        ------
        UpstreamFailed
            The connection broke, was silent beyond its idle deadline, or broke the framing.
        """
        if self._connection is None:
            raise RuntimeError("the answer is closed")
        return self._connection.read()

    def close(self) -> None:
        """Release the connection: reused after a completely framed response, aborted otherwise."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()


class BackendUpstream:
    """HTTP/1.1 towards one backend.

    Proxy variables of the environment never apply; redirects are handed to the caller like other answers.

    Parameters
    ----------
    name
        The backend's configured name; only for people.
    base_url
        `http` or `https`, with an optional path prefix; no user name, query or fragment.
    headers
        What every request carries besides our own headers: the backend's authorization.
    deadlines
        How long the backend may take.
    max_connections
        Sockets at once, busy and idle. At the bound a request waits for at most `deadlines.connect_s`.
    max_idle_s
        Longest rest of a connection between two requests, in seconds.
    ssl_context
        For https; the default verifies against the system's authorities.

    Raises
    ------
    ValueError
        An argument is not usable. The message repeats no value that may be secret.
    """

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        headers: Mapping[str, str],
        deadlines: Deadlines,
        max_connections: int = _DEFAULT_MAX_CONNECTIONS,
        max_idle_s: float = _DEFAULT_MAX_IDLE_S,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.name = name
        self._origin = parse_origin(base_url)
        self._heads = RequestHeads(self._origin, headers)
        self._deadlines = deadlines
        self._ssl_context = (ssl_context or ssl.create_default_context()) if self._origin.tls else None
        self._pool = ConnectionPool(
            self._dial,
            max_connections=max_connections,
            patience_s=deadlines.connect_s,
            max_idle_s=max_idle_s,
            shortest_deadline_s=min(deadlines.first_byte_s, deadlines.idle_s),
        )

    @property
    def in_flight(self) -> int:
        """How many requests of this process the backend has."""
        return self._pool.busy

    async def post(
        self,
        path: bytes,
        body: bytes | Pieces,
        *,
        request_id: bytes,
        traceparent: bytes | None,
        keeps: Keeps = keeps_nothing,
    ) -> BackendAnswer:
        """Send one JSON POST and return its answer once the head is here; see `domain.ports.Upstream`.

        Raises
        ------
        UpstreamFailed
            Nothing usable came back; `sent` says how far it got.
        ValueError
            An argument would break the request head.
        """
        length = len(body) if isinstance(body, bytes) else sum(map(len, body))
        head = self._heads.build(path, length, request_id, traceparent)
        connection = self._pool.take_idle() or await self._pool.acquire()
        try:
            await connection.exchange(head, body, keeps)
        except UpstreamFailed as failure:
            if not (connection.reused and connection.unanswered and failure.kind in _KEEP_ALIVE_RACE):
                raise
        else:
            return BackendAnswer(connection)
        # The backend closed a resting connection while our request was under way. That says nothing about
        # the backend, and a server that closes before it reads has not begun to work: one more try.
        connection = await self._pool.acquire(fresh=True)
        await connection.exchange(head, body, keeps)
        return BackendAnswer(connection)

    async def aclose(self) -> None:
        """Close idle connections and abort busy ones."""
        await self._pool.aclose()

    async def _dial(self, pool: ConnectionPool) -> Connection:
        return await dial(
            self._origin,
            make=lambda: Connection(
                owner=pool, first_byte_s=self._deadlines.first_byte_s, idle_s=self._deadlines.idle_s
            ),
            connect_s=self._deadlines.connect_s,
            ssl_context=self._ssl_context,
        )
