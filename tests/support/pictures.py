"""Images in base64: whole small ones, and heads that claim any size."""

import struct
import zlib
from base64 import b64encode
from collections.abc import Sequence

JPEG_TAIL = b"\xff\xda\x00\x02\xff\xd9"


def text(content: bytes) -> str:
    """Return bytes as requests hold them."""
    return b64encode(content).decode()


def png(width: int = 1, height: int = 1) -> str:
    """Return a PNG; one that claims to be larger than one grey pixel has no more than that."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")]
    return text(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )


def jpeg(width: int = 1, height: int = 1, before: Sequence[tuple[int, int]] = ((0xE0, 14),)) -> str:
    """Return the head of a JPEG whose size stands behind segments of these markers and sizes."""
    segments = b"".join(
        struct.pack(">BBH", 0xFF, marker, size + 2) + b"\xff\xc0" * (size // 2) + b"x" * (size % 2)
        for marker, size in before
    )
    frame = struct.pack(">BBHBHHB", 0xFF, 0xC0, 11, 8, height, width, 1) + b"\1\x11\0"
    return text(b"\xff\xd8" + segments + frame + JPEG_TAIL)


def webp(kind: bytes = b"VP8X", width: int = 1, height: int = 1) -> str:
    """Return the head of a WebP in one of its three layouts."""
    if kind == b"VP8X":
        content = b"\0\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == b"VP8L":
        content = b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little") + b"\0" * 5
    else:
        content = b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height)
    chunk = kind + struct.pack("<I", len(content)) + content
    return text(b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk)


def wav() -> str:
    """Return the head of a sound."""
    return text(b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 24)
