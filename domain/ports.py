"""What the stages may call. Adapters live in `app` and `db`; tests run one contract suite per port."""

from collections.abc import Callable, Mapping
from typing import Protocol

from domain.usage import Admission, Settlement
from domain.values import Pieces, Principal


class KeyStore(Protocol):
    """Where principals come from."""

    def remembered(self, digest: bytes) -> Principal | None:
        """Return the principal if this process may answer from memory, else None. Costs no I/O."""

    async def find_by_digest(self, digests: tuple[bytes, ...]) -> Principal | None:
        """Return the principal of the first digest that is known and usable, else None.

        Raises
        ------
        Unavailable
            The store cannot be asked and nothing usable is cached.
        """


Keeps = Callable[[Callable[[], None]], bool]
"""Decides whether a request that nobody waits for stays open; it is given what closes it, at any later time."""


def keeps_nothing(_: Callable[[], None]) -> bool:
    """Let every request end with the wait for its answer."""
    return False


class UpstreamAnswer(Protocol):
    """One response of a backend whose head has arrived.

    The holder must call `close` exactly once, also after an error.
    """

    status: int
    headers: Mapping[bytes, bytes]
    """Lower-cased names; a repeated header keeps its last value."""

    async def read(self) -> bytes:
        """Return the next body bytes as soon as they arrive, b"" after a completely framed end.

        Raises
        ------
        UpstreamFailed
            The connection broke, was silent beyond its idle deadline, or broke the framing.
        """

    def close(self) -> None:
        """Release the connection: reused after a completely framed response, aborted otherwise."""


class Upstream(Protocol):
    """HTTP towards one backend."""

    async def post(
        self,
        path: bytes,
        body: bytes | Pieces,
        *,
        request_id: bytes,
        traceparent: bytes | None,
        keeps: Keeps = keeps_nothing,
    ) -> UpstreamAnswer:
        """Send one JSON POST and return its answer once the head is here.

        If that wait is cancelled before a byte came, `keeps` decides whether the request stays open until one does, or
        until its deadline.

        Raises
        ------
        UpstreamFailed
            Nothing usable came back; `sent` says how far it got.
        """

    async def aclose(self) -> None:
        """Close idle connections and abort busy ones."""


class OpenEntry(Protocol):
    """The ledger's record of one running request."""

    def progress(self, tokens_out: int) -> None:
        """Note the output tokens released so far, before the bytes that carry them are sent."""

    def sent_to(self, backend: str) -> None:
        """Note that an attempt at this backend begins, so that the record of a lost request can name it."""

    def settle(self, settlement: Settlement) -> None:
        """Close the record with its single ending. A second call is an error of ours."""


class Ledger(Protocol):
    """Append-only usage of this process."""

    def open(self, admission: Admission) -> OpenEntry:
        """Open the record of a request that is being let in.

        Raises
        ------
        LedgerFull
            There is no room; nothing was written.
        """
