"""Texts of people that stand in one line of a list, a log or a page: names and reasons."""

import re
from typing import Final

PRINTABLE: Final = r"^[ \u00a0]*[^\s\x00-\x1f\x7f-\x9f\u2028\u2029][^\x00-\x1f\x7f-\x9f\u2028\u2029]*$(?!\n)"
"""Something to see, and nothing that breaks a line or hides in one.

No two parts of it can match the same character at the same place, so no text takes long. Python's `$` alone would let
a last line break pass.
"""

_PRINTABLE: Final = re.compile(PRINTABLE)


def rule_of(longest: int) -> str:
    """Return what such a text takes, as the end of a sentence."""
    return f"takes 1 to {longest} characters, at least one that can be seen, and no tabs or line breaks"


def is_one_line(text: str, longest: int) -> bool:
    """Return whether a text has something to see, fits into a line and has at most so many characters."""
    return len(text) <= longest and _PRINTABLE.search(text) is not None
