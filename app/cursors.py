"""Cursors: where a list or an export goes on, as text whose content is nobody's business."""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TypeVar

import msgspec

T = TypeVar("T")


def cursor_at(place: object) -> str:
    """Return the cursor to whatever comes after this place."""
    return urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def place_of(cursor: str, kind: type[T]) -> T:
    """Return the place that a cursor names.

    Raises
    ------
    ValueError
        Nobody here has given out this cursor.
    """
    try:
        raw = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        return msgspec.json.decode(raw, type=kind)
    except (ValueError, binascii.Error, msgspec.MsgspecError, RecursionError):
        raise ValueError("no cursor") from None
