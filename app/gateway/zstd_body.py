"""Request bodies that come as zstd, decoded as they arrive and within bounds."""

import sys
from typing import Final

from domain.errors import BadRequest, BodyTooLarge

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

WINDOW_LOG: Final = 23
"""8 MiB, what Ollama's own decoder takes: a frame that wants to look back further is refused."""
STEP_BYTES: Final = 1024 * 1024
_TRAILING: Final = "the body goes on after its zstd frame"


class ZstdBody:
    """Takes one zstd frame in pieces.

    Whatever the frame claims or holds, memory stays below `max_bytes` of output, one step and the window. Only
    one frame is taken: a body of many tiny ones would cost far more than its size.
    """

    __slots__ = ("_decoder", "_max_bytes", "_pieces", "_size")

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._decoder = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
        )
        self._pieces: list[bytes] = []
        self._size = 0

    @property
    def is_behind(self) -> bool:
        """Whether more comes of the bytes it was fed than one step: it wants to be fed nothing, and again."""
        return not (self._decoder.needs_input or self._is_complete())

    def feed(self, piece: bytes) -> int:
        """Take the next bytes of the frame, and tell how many more decoded bytes are held now: a step at most.

        Raises
        ------
        BodyTooLarge
            What they hold exceeds the limit.
        BadRequest
            They are no zstd, need too large a window, or go on after the frame.
        """
        if self._is_complete():
            raise BadRequest(_TRAILING)
        try:
            decoded = self._decoder.decompress(piece, max_length=STEP_BYTES)
        except zstd.ZstdError:
            raise BadRequest("the body is not zstd, or needs a window of more than 8 MiB") from None
        if self._decoder.unused_data:
            raise BadRequest(_TRAILING)
        self._size += len(decoded)
        if self._size > self._max_bytes:
            raise BodyTooLarge(f"The decoded body is larger than the limit of {self._max_bytes} bytes.")
        self._pieces.append(decoded)
        return len(decoded)

    def whole(self) -> bytes:
        """Return the decoded body.

        Raises
        ------
        BadRequest
            The frame is not complete.
        """
        if not self._is_complete():
            raise BadRequest("the body ends before its zstd frame does")
        return b"".join(self._pieces)

    def _is_complete(self) -> bool:
        return self._decoder.eof
