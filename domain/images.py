"""What stands where a request holds images, told from their first bytes: no image is ever decoded here.

A backend decodes whatever it is sent in its own process, for all tenants. So only the formats pass that Ollama reads,
with a header that claims a size somebody could mean.
"""

import binascii
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final

from domain.errors import BadRequest

MAX_PIXELS: Final = 100_000_000
"""More than phones take. A backend holds 4 bytes for each of them while it decodes, whatever the file's size."""
WEBP_CRASHES_SINCE: Final = (0, 32, 14)
"""Since this version Ollama decodes WebP where a panic of its decoder ends the whole server; no later one is known
to be free of it."""

_DATA_URLS: Final = (
    "data:;base64,",
    *(f"data:image/{kind};base64," for kind in ("jpeg", "jpg", "png", "webp")),
)
"""What Ollama takes in front of an image on `/v1` routes, letter for letter."""
_REMOTE: Final = re.compile(r"\s*(?:https?|ftp|file):", re.IGNORECASE)
_VERSION: Final = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})")
_UNRELEASED: Final = (0, 0, 0)
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_LONGEST_JPEG_HEAD: Final = 1000
"""Segments before the one that holds the size; cameras write a few dozen at most."""
_SIZE_SEGMENTS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_NO_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD9)})


class Picture(Enum):
    """What was found. `SOUND` is WAV, which Ollama takes in the place of images for models that listen."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"
    SOUND = "sound"
    REMOTE = "remote"
    ODD_SIZE = "odd size"
    UNKNOWN = "unknown"


_REFUSALS: Final[Mapping[Picture, str]] = {
    Picture.REMOTE: "images have to be part of the request, as base64: nothing is fetched from an address",
    Picture.ODD_SIZE: "the header of an image names no size, or one of more than"
    f" {MAX_PIXELS // 1_000_000} million pixels; scale it down",
    Picture.UNKNOWN: "an image is neither PNG nor JPEG in base64; send it as one of them, on native routes as bare"
    " base64, in 'image_url' as 'data:image/png;base64,...'",
}
_NO_WEBP: Final = (
    "WebP images are not accepted for this model, because a backend that hosts it may crash on one;"
    " send PNG or JPEG"
)


def refuse_unfit(pictures: Iterable[Picture], versions: Iterable[str | None]) -> None:
    """Refuse what the backends of these versions must not be sent, None being an unknown version.

    Raises
    ------
    BadRequest
        An image is not inside the request, is of no format that is known to be read, claims an absurd size, or is
        WebP and may bring a backend down.
    """
    found = frozenset(pictures)
    for picture, sentence in _REFUSALS.items():
        if picture in found:
            raise BadRequest(sentence)
    if Picture.WEBP in found and not all(map(_survives_webp, versions)):
        raise BadRequest(_NO_WEBP)


def sniff_url(value: object) -> Picture:
    """Tell what an `image_url` holds: a data URL, bare or below the key `url`."""
    if isinstance(value, dict):
        value = value.get("url")
    if not isinstance(value, str):
        return Picture.UNKNOWN
    for start in _DATA_URLS:
        if value.startswith(start):
            return sniff(value, len(start))
    return Picture.REMOTE if _REMOTE.match(value) else Picture.UNKNOWN


def sniff(value: object, start: int = 0) -> Picture:
    """Tell what a text is that should be an image in base64 from its character `start` on."""
    if not isinstance(value, str):
        return Picture.UNKNOWN  # Go would take a list of numbers for bytes as well
    if _has_line_breaks(value, start):
        value, start = re.sub(r"[\r\n]+", "", value[start:]), 0  # Go skips them wherever they stand
    head = _Base64(value, start)
    first = head.read(0, 30)
    if first.startswith(_PNG):
        return _png(first)
    if first.startswith(b"\xff\xd8\xff"):
        return _jpeg(head)
    if first[:4] == b"RIFF" and first[8:12] == b"WEBP":
        return _webp(first)
    if first[:4] == b"RIFF" and first[8:12] == b"WAVE":
        return Picture.SOUND
    return Picture.REMOTE if _REMOTE.match(value, start) else Picture.UNKNOWN


class _Base64:
    """Bytes that are decoded where they are read."""

    __slots__ = ("_start", "_text")

    def __init__(self, text: str, start: int) -> None:
        self._text = text
        self._start = start

    def read(self, offset: int, count: int) -> bytes:
        """Return the bytes there, fewer or none at the end or where this is no base64."""
        first = self._start + offset // 3 * 4
        skipped = offset % 3
        piece = self._text[first : first + (skipped + count + 2) // 3 * 4]
        try:
            return binascii.a2b_base64(piece, strict_mode=True)[skipped : skipped + count]
        except ValueError:
            return b""


def _has_line_breaks(text: str, start: int) -> bool:
    return text.find("\n", start) >= 0 or text.find("\r", start) >= 0


def _sized(picture: Picture, width: int, height: int) -> Picture:
    return picture if 0 < width * height <= MAX_PIXELS else Picture.ODD_SIZE


def _png(head: bytes) -> Picture:
    if head[12:16] != b"IHDR":
        return Picture.UNKNOWN
    return _sized(Picture.PNG, int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big"))


def _jpeg(head: _Base64) -> Picture:
    """Walk from segment to segment up to the one that holds the size."""
    offset = 2
    for _ in range(_LONGEST_JPEG_HEAD):
        segment = head.read(offset, 9)
        if len(segment) < 4 or segment[0] != 0xFF:  # noqa: PLR2004 - a marker and a length
            return Picture.UNKNOWN
        marker = segment[1]
        if marker in _SIZE_SEGMENTS:
            height, width = int.from_bytes(segment[5:7], "big"), int.from_bytes(segment[7:9], "big")
            return _sized(Picture.JPEG, width, height)
        if marker == 0xFF:  # noqa: PLR2004 - a filler
            offset += 1
        elif marker in _NO_LENGTH:
            offset += 2
        else:
            offset += 2 + max(2, int.from_bytes(segment[2:4], "big"))
    return Picture.UNKNOWN


def _webp(head: bytes) -> Picture:
    kind = head[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(head[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L" and head[20:21] == b"\x2f":
        bits = int.from_bytes(head[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    else:
        return Picture.UNKNOWN
    return _sized(Picture.WEBP, width, height)


def _survives_webp(version: str | None) -> bool:
    found = _VERSION.match(version or "")
    if found is None:
        return False
    numbers = tuple(map(int, found.groups()))
    return _UNRELEASED < numbers < WEBP_CRASHES_SINCE
