"""One inbound request as the stages see it: scanned once from the ASGI scope."""

import re
import time
from collections.abc import Iterable
from typing import Final

from litestar.types import HTTPScope
from uuid_utils.compat import uuid7

from app.gateway.body_room import BodyHold
from domain.credentials import presented_key
from domain.values import RequestId

_CLIENT_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_CHUNKED: Final = b"chunked"
_TRACEPARENT = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Call:
    """Method, path and the few headers the gateway looks at. Everything else a client sends is ignored."""

    __slots__ = (
        "_authorization",
        "_forwarded_for",
        "_path_key",
        "_x_api_key",
        "asks_first",
        "body_is_read",
        "body_length",
        "client_request_id",
        "content_encoding",
        "hold",
        "key_digests",
        "key_in_path",
        "method",
        "peer",
        "raw_path",
        "request_id",
        "request_id_text",
        "started",
        "traceparent",
        "transfer_coding",
    )

    def __init__(
        self,
        *,
        method: str,
        raw_path: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        peer: str | None,
        started: float,
        path_key: bytes | None = None,
    ) -> None:
        """Take what the server knows.

        `peer` is the address of the TCP peer; `started` the event loop's time of arrival. `path_key` is the key
        that stood before the path, which is no part of `raw_path`.
        """
        self.method: Final = method
        self.raw_path: Final = raw_path
        self.peer: Final = peer
        self.started: Final = started
        self.request_id: Final = RequestId(uuid7())
        self.request_id_text: Final = str(self.request_id).encode()
        self.body_length: int | None = None
        self.body_is_read = False
        self.asks_first = False
        self.content_encoding = b"identity"
        self.transfer_coding: bytes | None = None
        self.key_digests: tuple[bytes, ...] = ()
        self.hold: BodyHold | None = None
        self.client_request_id: str | None = None
        self.traceparent: bytes | None = None
        self._authorization: list[bytes] = []
        self._x_api_key: list[bytes] = []
        self._path_key: Final = path_key
        self.key_in_path: Final = path_key is not None
        self._forwarded_for: list[bytes] = []
        for name, value in headers:
            scan = _SCANNERS.get(name)
            if scan is not None:
                scan(self, value)

    def key(self) -> bytes:
        """Return the presented key.

        Raises
        ------
        Unauthenticated
            No carrier holds one, or two carriers disagree.
        """
        return presented_key(self._authorization, self._x_api_key, self._path_key)

    def take_key(self, key: bytes) -> None:
        """Take a key from the body of a login form as if a header had carried it."""
        self._x_api_key.append(key)

    @property
    def is_being_sent(self) -> bool:
        """Whether bytes of a body may be on their way: nobody has read it, and its client does not ask first."""
        return not (self.body_is_read or self.asks_first) and bool(self.body_length or self.transfer_coding)

    def let_go_of_body(self) -> None:
        """Stop counting the bytes of the body; once more does no harm."""
        if self.hold is not None:
            self.hold.give_back()

    @property
    def presents_anything(self) -> bool:
        """Whether there is a carrier that could hold a key."""
        return bool(self._authorization or self._x_api_key)

    @property
    def forwarded_for(self) -> list[bytes]:
        """The values of all X-Forwarded-For headers, in order; believed only from a trusted proxy."""
        return self._forwarded_for

    @property
    def framing_in_doubt(self) -> bool:
        """Whether a server before us could see another end of this request than the one below us does.

        Chunks end in one place for everybody, under a further coding they do not. (Of a length beside chunks nothing
        arrives here: the server below us leaves it out, goes by the chunks and closes the connection.)
        """
        return self.transfer_coding is not None and self.transfer_coding != _CHUNKED

    def _scan_authorization(self, value: bytes) -> None:
        self._authorization.append(value)

    def _scan_x_api_key(self, value: bytes) -> None:
        self._x_api_key.append(value)

    def _scan_forwarded_for(self, value: bytes) -> None:
        self._forwarded_for.append(value)

    def _scan_content_length(self, value: bytes) -> None:
        if value.isdigit() and len(value) <= 18:  # noqa: PLR2004 - the decimal digits a 64 bit size can have
            self.body_length = int(value)

    def _scan_transfer_encoding(self, value: bytes) -> None:
        seen = self.transfer_coding
        self.transfer_coding = value.strip(b" \t").lower() if seen is None else b"%b, %b" % (seen, value)

    def _scan_expect(self, _: bytes) -> None:
        self.asks_first = True

    def _scan_content_encoding(self, value: bytes) -> None:
        self.content_encoding = value.strip().lower()

    def _scan_request_id(self, value: bytes) -> None:
        if _CLIENT_REQUEST_ID.fullmatch(value):
            self.client_request_id = value.decode()

    def _scan_traceparent(self, value: bytes) -> None:
        if _TRACEPARENT.fullmatch(value):
            self.traceparent = value


def call_of(scope: HTTPScope, path_key: bytes | None = None) -> Call:
    """Return the call that has come in just now; `path_key` as in `Call`."""
    client = scope["client"]
    return Call(
        method=scope["method"],
        raw_path=scope["raw_path"],
        headers=scope["headers"],
        peer=client[0] if client else None,
        started=time.monotonic(),
        path_key=path_key,
    )


_SCANNERS = {
    b"authorization": Call._scan_authorization,  # noqa: SLF001 - the class's own dispatch table
    b"x-api-key": Call._scan_x_api_key,  # noqa: SLF001
    b"x-forwarded-for": Call._scan_forwarded_for,  # noqa: SLF001
    b"content-length": Call._scan_content_length,  # noqa: SLF001
    b"content-encoding": Call._scan_content_encoding,  # noqa: SLF001
    b"transfer-encoding": Call._scan_transfer_encoding,  # noqa: SLF001
    b"expect": Call._scan_expect,  # noqa: SLF001
    b"x-request-id": Call._scan_request_id,  # noqa: SLF001
    b"traceparent": Call._scan_traceparent,  # noqa: SLF001
}
