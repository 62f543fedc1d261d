"""The state of an examination: what was found, what was looked at, and what could not be."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from app.doctor.findings import Finding, Level


class Check(StrEnum):
    """What is looked at. The names stay: scripts read them."""

    SETTINGS = "settings"
    PROXIES = "trusted proxies"
    DATABASE = "database"
    REDIS = "redis"
    CLOCKS = "clocks"
    BACKENDS = "backends"
    MODELS = "models"
    GRANTS = "grants"
    LOADS = "model loads"


_ORDER: Final = tuple(Level)


class Examination:
    """Collects findings; a check that could not be made is never taken for one that found nothing."""

    def __init__(self) -> None:
        self._findings: list[Finding] = []
        self.done: list[Check] = []
        self.skipped: dict[Check, str] = {}

    def add(self, check: Check, *found: Iterable[Finding]) -> None:
        """Note a check that was made, and what it found."""
        self.done.append(check)
        for each in found:
            self._findings.extend(each)

    def skip(self, why: str, *checks: Check) -> None:
        """Note checks that could not be made; `why` is a sentence."""
        self.skipped.update(dict.fromkeys(checks, why))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found, the worst first."""
        return tuple(sorted(self._findings, key=lambda each: _ORDER.index(each.level)))

    @property
    def failed(self) -> bool:
        """Whether something does not work."""
        return any(each.level is Level.ERROR for each in self._findings)
