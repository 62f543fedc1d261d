"""Sums over the ledger, as operators ask for them."""

from enum import StrEnum

import msgspec


class UsageGroup(StrEnum):
    """What one line of a report stands for. Days are days of admission in UTC."""

    TENANT = "tenant"
    KEY = "key"
    MODEL = "model"
    DAY = "day"
    BACKEND = "backend"
    OUTCOME = "outcome"


class UsageSum(msgspec.Struct, frozen=True):
    """One line. `label` is a slug, key prefix, model, day, backend or outcome; empty where there was none.

    `estimated_requests`: nobody measured their tokens. `busy_us` is backend time (load, prompt, eval).
    """

    label: str
    requests: int
    tokens_in: int
    tokens_out: int
    tokens_cached: int
    estimated_requests: int
    busy_us: int


class UsageReport(msgspec.Struct, frozen=True):
    """The lines in the order of their labels, and their total (labelled `total`)."""

    lines: tuple[UsageSum, ...]
    total: UsageSum
