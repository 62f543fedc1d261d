"""Sums over the ledger, as operators ask for them."""

from enum import StrEnum
from typing import Final

import msgspec


class UsageGroup(StrEnum):
    """What one line of a report stands for. Hours are hours in UTC; days and months are those of a time zone."""

    TENANT = "tenant"
    KEY = "key"
    MODEL = "model"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    BACKEND = "backend"
    OUTCOME = "outcome"


TIME_UNITS: Final = (UsageGroup.HOUR, UsageGroup.DAY, UsageGroup.MONTH)
"""Of these a report knows one at most: the finest says it all."""


class UsageCounts(msgspec.Struct, frozen=True):
    """What was used.

    `estimated_requests`: nobody measured their tokens. `busy_us` is backend time (load, prompt, eval).
    """

    requests: int
    tokens_in: int
    tokens_out: int
    tokens_cached: int
    estimated_requests: int
    busy_us: int


class UsageSum(UsageCounts, frozen=True, kw_only=True):
    """One line of a report by one thing.

    `label` is a slug, key prefix, model, hour, day, month, backend or outcome; empty where there was none.
    """

    label: str


class UsageReport(msgspec.Struct, frozen=True):
    """The lines in the order of their labels, and their total (labelled `total`)."""

    lines: tuple[UsageSum, ...]
    total: UsageSum


class GroupedSum(UsageCounts, frozen=True, kw_only=True):
    """One line of a report by several things, with a label for each in the order in which they were asked for."""

    labels: tuple[str, ...]


class UsageSums(msgspec.Struct, frozen=True):
    """The lines in the order of their labels, and their total. Without anything to group by there are no lines."""

    lines: tuple[GroupedSum, ...]
    total: UsageCounts


class TooManySums(Exception):  # noqa: N818 - reads as what happened
    """A report would have more lines than whoever asked can take."""
