"""Drained backends: whom an operator has taken out of service, as a decision that outlives every process."""

from datetime import datetime
from typing import Final

import msgspec

from domain.tenants import ControlError

MAX_REASON_CHARS: Final = 500


class Drain(msgspec.Struct, frozen=True):
    """The decision that a backend gets no new requests; those that run finish. `by` is the actor's name."""

    backend: str
    reason: str
    by: str
    at: datetime


class BackendUnknown(ControlError):  # noqa: N818 - reads as what happened
    """No backend of this name is configured."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no backend {name!r}")


class ReasonMissing(ControlError):  # noqa: N818
    """Whoever finds a backend drained at night wants to know why."""

    def __init__(self) -> None:
        super().__init__(f"a reason takes 1 to {MAX_REASON_CHARS} characters, at least one that can be seen")


def checked_reason(reason: str) -> str:
    """Return a reason without the blanks around it.

    Raises
    ------
    ReasonMissing
        Nothing is left, or it is too long.
    """
    text = reason.strip()
    if not 1 <= len(text) <= MAX_REASON_CHARS:
        raise ReasonMissing
    return text
