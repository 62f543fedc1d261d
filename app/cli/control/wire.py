"""From what the admin API answers to the values of `domain`: fields of the same name, in camel case there."""

import re
from typing import Any, Final, TypeVar

import msgspec

from app.cli.control.client import AdminClient

T = TypeVar("T")

_HUMP: Final = re.compile(r"(?<=[a-z0-9])([A-Z])")


def value(answer: Any, kind: type[T], *, of: AdminClient) -> T:
    """Return one JSON object as a value; fields that it does not know are left out, so newer gateways may say more.

    Raises
    ------
    CommandFailed
        It is no such object.
    """
    if not isinstance(answer, dict):
        raise of.strange()
    try:
        return msgspec.convert({snake(name): each for name, each in answer.items()}, kind)
    except msgspec.ValidationError:
        raise of.strange() from None


def snake(name: str) -> str:
    """Return `timeZone` as `time_zone`."""
    return _HUMP.sub(r"_\1", name).lower()
