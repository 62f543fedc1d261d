"""ETags: what an answer looked like, so that a change can be bound to it (`If-Match`)."""

import hashlib
from typing import Annotated, Final

import msgspec
from litestar.params import HeaderParameter

from app.admin.errors import PreconditionFailed

_DIGEST_CHARS: Final = 32
_MAX_HEADER_CHARS: Final = 1000

IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match",
        max_length=_MAX_HEADER_CHARS,
        description="Change it only if its ETag still is this one. Without it the last writer wins.",
    ),
]


def etag_of(answer: msgspec.Struct | msgspec.Raw) -> str:
    """Return the strong ETag of an answer. It is made of the content, so it changes whoever writes."""
    return f'"{hashlib.sha256(msgspec.json.encode(answer)).hexdigest()[:_DIGEST_CHARS]}"'


def check(if_match: str | None, current: str | None) -> None:
    """Let a change go on only if the caller knows the current state, or does not care. None: there is nothing yet.

    Raises
    ------
    PreconditionFailed
        The caller has seen another state.
    """
    if if_match is None:
        return
    seen = {each.strip() for each in if_match.split(",")}
    if current is None or (seen != {"*"} and current not in seen):
        raise PreconditionFailed
