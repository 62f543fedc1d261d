"""How long a key and its successor may both work."""

from datetime import timedelta
from typing import Final

from domain.tenants import ControlError

MAX_OVERLAP_S: Final = 366 * 86_400


class OverlapInvalid(ControlError):  # noqa: N818 - reads as what happened
    """A key that is replaced ends some day, and never before now."""

    def __init__(self) -> None:
        super().__init__(f"a key and its successor work together for 0 to {MAX_OVERLAP_S // 86_400} days")


def checked_overlap(overlap: timedelta) -> timedelta:
    """Return how long both keys work.

    Raises
    ------
    OverlapInvalid
        It is less than nothing, or too long.
    """
    if not timedelta(0) <= overlap <= timedelta(seconds=MAX_OVERLAP_S):
        raise OverlapInvalid
    return overlap
