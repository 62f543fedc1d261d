"""Pages: at most so many entries, and a cursor to where the next begin."""

from typing import Annotated, Final, TypeVar

from litestar.params import QueryParameter
from msgspec import Meta

from app import cursors
from app.admin.errors import InvalidFields

DEFAULT_ENTRIES: Final = 50
MAX_ENTRIES: Final = 200
_MAX_CURSOR_CHARS: Final = 300

T = TypeVar("T")

Limit = Annotated[
    int,
    QueryParameter(name="limit", ge=1, le=MAX_ENTRIES, description="Entries of a page at most."),
]
Cursor = Annotated[
    str | None,
    QueryParameter(
        name="cursor",
        max_length=_MAX_CURSOR_CHARS,
        description="Where to go on: `nextCursor` of the page before. Its content is nobody's business.",
    ),
]
NextCursor = Annotated[str | None, Meta(description="Asks for the page after this one; null: there is none.")]


def place_of(cursor: str | None, kind: type[T]) -> T | None:
    """Return the place that a cursor names, None without one.

    Raises
    ------
    InvalidFields
        Nobody here has given out this cursor.
    """
    if cursor is None:
        return None
    try:
        return cursors.place_of(cursor, kind)
    except ValueError:
        raise InvalidFields.parameter(
            "cursor", "This is no cursor of this list; begin again without one."
        ) from None
