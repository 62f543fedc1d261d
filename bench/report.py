"""The figures, and how they are shown."""

import os
import platform
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench.load import Counts

SUBJECT = "gateway"
LIMITED = "limited"
"""The same gateway, asked by a tenant and a key that have every limit."""
BEFORE = "before"
RATIOS = ((SUBJECT, "nginx"), (SUBJECT, BEFORE), (LIMITED, "nginx"), (LIMITED, SUBJECT))
"""Whose figures are divided by whose, round by round, where both were measured."""
SPREAD: Mapping[str, int] = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
"""The percentiles that tell how values are spread."""


def percentile(values: Sequence[float], share: int) -> float:
    """Return the smallest value that `share` percent of the values do not exceed; 0 of nothing."""
    ranked = sorted(values)
    return ranked[max(0, -(-len(ranked) * share // 100) - 1)] if ranked else 0.0


def spread(values: Sequence[float]) -> list[float]:
    """Return what `SPREAD` names of the values."""
    return [percentile(values, share) for share in SPREAD.values()]


class Summary(msgspec.Struct, frozen=True):
    """The rounds of one target."""

    median: float
    low: float
    high: float
    rounds: tuple[float, ...]


class Measure:
    """One figure of every target, round by round."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rounds: dict[str, list[float]] = {}

    def add(self, target: str, value: float) -> None:
        """Add the value of one round."""
        self.rounds.setdefault(target, []).append(value)

    def summary(self, target: str) -> Summary | None:
        """Return the rounds of a target in short, None if it has none."""
        rounds = self.rounds.get(target)
        if not rounds:
            return None
        return Summary(statistics.median(rounds), min(rounds), max(rounds), tuple(rounds))

    def ratio(self, subject: str, reference: str) -> Summary | None:
        """Return the rounds of one target divided by the same rounds of another."""
        ratios = Measure("")
        for ours, theirs in zip(self.rounds.get(subject, ()), self.rounds.get(reference, ()), strict=False):
            if theirs > 0:
                ratios.add(subject, ours / theirs)
        return ratios.summary(subject)


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured. `load` is the system's average over a minute, before the first round."""

    cpu: str
    cores: int
    system: str
    python: str
    load: float
    at: datetime

    def __str__(self) -> str:
        return (
            f"{self.cpu}, {self.cores} cores, {self.system}, Python {self.python}, "
            f"load before {self.load:.2f}, {self.at:%Y-%m-%d %H:%M} UTC"
        )


def this_machine() -> Machine:
    """Describe the machine as it is now."""
    return Machine(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        system=f"{platform.system()} {platform.release().partition('-')[0]}",
        python=platform.python_version(),
        load=os.getloadavg()[0],
        at=datetime.now(UTC),
    )


class Results:
    """Everything that was measured."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.measures: dict[str, Measure] = {}
        self.answered: dict[str, int] = {}
        self.failed: dict[str, Counter[str]] = {}

    def measure(self, name: str) -> Measure:
        """Return the measure of that name; a new one at first."""
        return self.measures.setdefault(name, Measure(name))

    def count(self, target: str, counts: Counts) -> None:
        """Note how many requests were answered, and how many were not as they should be."""
        self.answered[target] = self.answered.get(target, 0) + counts.answered
        self.failed[target] = self.failed.get(target, Counter()) + counts.failures

    @property
    def failures(self) -> int:
        """Answers that were no 2xx, broke off, or never came."""
        return sum(failed.total() for failed in self.failed.values())


def as_json(results: Results, targets: Sequence[str]) -> bytes:
    """Return everything, for a machine."""
    document = {
        "machine": results.machine,
        "answered": results.answered,
        "failed": results.failed,
        "measures": {
            measure.name: {
                "targets": {name: measure.summary(name) for name in targets},
                "ratios": {
                    f"{ours} / {theirs}": measure.ratio(ours, theirs) for ours, theirs in _ratios(targets)
                },
            }
            for measure in results.measures.values()
        },
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def as_table(results: Results, targets: Sequence[str]) -> str:
    """Return a table for people: medians, with the lowest and the highest round behind them."""
    ratios = _ratios(targets)
    rows = [["", *targets, *(f"{ours} / {theirs}" for ours, theirs in ratios)]]
    rows += [
        [
            measure.name,
            *(_cell(measure.summary(name)) for name in targets),
            *(_cell(measure.ratio(ours, theirs)) for ours, theirs in ratios),
        ]
        for measure in results.measures.values()
    ]
    rows.append(["answered", *(f"{results.answered.get(name, 0):,}" for name in targets)])
    rows.append(["failed", *(_failures(results.failed.get(name, Counter())) for name in targets)])
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in rows]
    return "\n".join([str(results.machine), "", *(line.rstrip() for line in lines)])


def _failures(failed: Counter[str]) -> str:
    return " ".join([str(failed.total()), *(f"{kind}:{count}" for kind, count in failed.most_common())])


def _ratios(targets: Sequence[str]) -> list[tuple[str, str]]:
    return [(ours, theirs) for ours, theirs in RATIOS if ours in targets and theirs in targets]


def _cell(summary: Summary | None) -> str:
    if summary is None:
        return "-"
    if len(summary.rounds) == 1:
        return _figure(summary.median)
    return f"{_figure(summary.median)} ({_figure(summary.low)}-{_figure(summary.high)})"


def _figure(value: float) -> str:
    if value >= 100:  # noqa: PLR2004 - from here on decimals are noise
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
