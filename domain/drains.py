"""Drained backends: whom an operator has taken out of service, as a decision that outlives every process."""

from datetime import datetime
from typing import Final

import msgspec

from domain.one_line import is_one_line, rule_of
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
        super().__init__(f"a reason {rule_of(MAX_REASON_CHARS)}")


def checked_reason(reason: str) -> str:
    """Return a reason without the blanks around it.

    Raises
    ------
    ReasonMissing
        There is nothing to see, or more than one line holds.
    """
    if not is_one_line(reason, MAX_REASON_CHARS):
        raise ReasonMissing
    return reason.strip()
