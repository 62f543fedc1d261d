"""Reading a request body within its size and time."""

import asyncio

from litestar.types import Receive

from app.gateway.call import Call
from domain.errors import BodyTooLarge, BodyTooSlow, UnsupportedEncoding

_MIB = 1024 * 1024


class ClientLeft(Exception):  # noqa: N818 - nobody's failure
    """The client closed its connection before its request was complete."""


async def read_body(call: Call, receive: Receive, *, max_bytes: int, base_timeout_s: float) -> bytes:
    """Return the whole body.

    The client has `base_timeout_s` plus one second for each MiB that the limit or its Content-Length allows.

    Raises
    ------
    UnsupportedEncoding
        The body is compressed.
    BodyTooLarge
        It exceeds `max_bytes`; a Content-Length that says so is refused before anything is read.
    BodyTooSlow
        It did not arrive in time.
    ClientLeft
        The connection closed first.
    """
    if call.content_encoding not in {b"identity", b""}:
        raise UnsupportedEncoding("Send the body uncompressed: this Content-Encoding is not supported.")
    length = call.body_length
    if length is not None and length > max_bytes:
        raise BodyTooLarge(f"The body is larger than the limit of {max_bytes} bytes.")
    allowed = max_bytes if length is None else length
    try:
        async with asyncio.timeout(base_timeout_s + allowed / _MIB):
            return await _collect(receive, max_bytes)
    except TimeoutError as exc:
        raise BodyTooSlow("The body did not arrive in time.") from exc


async def _collect(receive: Receive, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        event = await receive()
        if event["type"] != "http.request":
            raise ClientLeft
        piece = event["body"]
        size += len(piece)
        if size > max_bytes:
            raise BodyTooLarge(f"The body is larger than the limit of {max_bytes} bytes.")
        if not event["more_body"]:
            return piece if not pieces else b"".join((*pieces, piece))
        pieces.append(piece)
