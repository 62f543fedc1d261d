"""How a response body is delimited: the honest way, and the ways a broken server does it."""

import zlib
from typing import Final


class Chunked:
    """Chunked transfer coding; every push is one chunk."""

    header: bytes = b"Transfer-Encoding: chunked\r\n"
    closes: bool = False
    """The connection cannot be used again afterwards."""

    def wrap(self, data: bytes) -> bytes:
        """Return the bytes that carry `data`."""
        return b"%x\r\n%b\r\n" % (len(data), data)

    def end(self) -> bytes:
        """Return the bytes that end the body."""
        return b"0\r\n\r\n"


class TinyChunks(Chunked):
    """Chunked, one byte per chunk."""

    def wrap(self, data: bytes) -> bytes:
        """Return each byte of `data` as a chunk of its own."""
        return b"".join(b"1\r\n%c\r\n" % byte for byte in data)


class Gzipped(Chunked):
    """Chunked and compressed although nobody asked for it; flushed after every push."""

    header = b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"

    def __init__(self) -> None:
        self._gzip = zlib.compressobj(wbits=31)

    def wrap(self, data: bytes) -> bytes:
        """Return a chunk with the compressed form of `data`."""
        return super().wrap(self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH))

    def end(self) -> bytes:
        """Return the chunk with the gzip trailer, and the last chunk."""
        return super().wrap(self._gzip.flush()) + super().end()


class UntilClose(Chunked):
    """No length at all: the body ends with the connection."""

    header = b""
    closes = True

    def wrap(self, data: bytes) -> bytes:
        """Return `data` as it is."""
        return data

    def end(self) -> bytes:
        """Return nothing: closing is the end."""
        return b""


class WrongLength(UntilClose):
    """A Content-Length that the body does not have."""

    def __init__(self, declared: int) -> None:
        self.header = b"Content-Length: %d\r\n" % declared


CHUNKED: Final = Chunked()
UNTIL_CLOSE: Final = UntilClose()
