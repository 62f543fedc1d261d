"""Checks of the backends: what discovery last saw of them, against the settings and the grants."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from app.doctor.findings import Finding, FindingKind, Level
from db.doctor_look import ColdLoads, GrantLook
from domain.model_names import canonical, is_cloud, matches
from domain.model_table import BackendCondition, ModelTable

OLDEST_SAFE: Final = (0, 17, 1)
"""The first release of Ollama without a known hole that a gateway cannot close in front of it (CVE-2026-7482)."""
OLD_TABLE: Final = timedelta(minutes=5)
COLD_LOADS: Final = 5
"""Loads of one model on one backend within the time looked at, below which nothing is said."""
COLD_SHARE: Final = 0.3
"""Share of a backend's time that loading takes, from which on it is told."""

_VERSION: Final = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})")
_UNRELEASED: Final = (0, 0, 0)
_SHOWN: Final = 5


def of_table(table: ModelTable | None, *, now: datetime) -> Iterator[Finding]:
    """Yield what is wrong with the model table as a whole."""
    if table is None:
        yield Finding(
            FindingKind.TABLE_MISSING,
            Level.ERROR,
            "the model table",
            "No worker has written the model table.",
        )
        return
    age = now - table.written_at
    if age > OLD_TABLE:
        minutes = int(age.total_seconds() // 60)
        yield Finding(
            FindingKind.TABLE_OLD,
            Level.ERROR,
            "the model table",
            f"The model table was last written {minutes:,} minutes ago, at {table.written_at:%Y-%m-%d %H:%M} UTC.",
        )


def of_configuration(table: ModelTable, configured: Mapping[str, str]) -> Iterator[Finding]:
    """Yield where the worker knows other backends than these settings.

    `configured` are the configuration digests of the settings' backends, by name.
    """
    known = {state.name: state.config_digest for state in table.backends}
    for name in sorted(known.keys() | configured.keys()):
        if name not in known:
            what = f"The settings name backend {name}, which the worker does not poll."
        elif name not in configured:
            what = f"The worker polls backend {name}, which the settings here do not name."
        elif known[name] != configured[name]:
            what = f"The worker polls backend {name} at another address, or differs in its allow_cloud."
        else:
            continue
        yield Finding(FindingKind.BACKENDS_DIFFER, Level.ERROR, name, what)


def of_backends(table: ModelTable) -> Iterator[Finding]:
    """Yield backends that do not answer, and those that were taken out of service."""
    for state in table.backends:
        if state.drained:
            yield Finding(
                FindingKind.BACKEND_DRAINED, Level.NOTE, state.name, f"Backend {state.name} is drained."
            )
        elif state.condition is not BackendCondition.OK:
            since = f"last at {state.last_ok_at:%Y-%m-%d %H:%M} UTC" if state.last_ok_at else "never"
            yield Finding(
                FindingKind.BACKEND_DOWN,
                Level.ERROR,
                state.name,
                f"Backend {state.name} does not answer ({state.error or 'not polled yet'}); it did {since}.",
            )


def of_versions(table: ModelTable) -> Iterator[Finding]:
    """Yield backends below the safe floor, and those that do not say what they are."""
    floor = ".".join(map(str, OLDEST_SAFE))
    for state in table.backends:
        if state.condition is BackendCondition.UNKNOWN:
            continue
        numbers = _numbers(state.version)
        if numbers is None:
            yield Finding(
                FindingKind.BACKEND_VERSION_UNKNOWN,
                Level.NOTE,
                state.name,
                f"Backend {state.name} says that it is version {state.version or 'unknown'}.",
            )
        elif numbers < OLDEST_SAFE:
            yield Finding(
                FindingKind.BACKEND_OUTDATED,
                Level.ERROR,
                state.name,
                f"Backend {state.name} runs Ollama {state.version}; {floor} is the oldest release without known holes.",
            )


def of_digests(table: ModelTable) -> Iterator[Finding]:
    """Yield models that are not the same files on all backends that host them."""
    hosts: dict[str, dict[str, list[str]]] = {}
    for state in table.backends:
        for model in state.models:
            hosts.setdefault(model.name, {}).setdefault(model.digest, []).append(state.name)
    for name, digests in sorted(hosts.items()):
        if len(digests) > 1:
            each = "; ".join(f"{digest[:12] or '?'} on {', '.join(on)}" for digest, on in digests.items())
            yield Finding(
                FindingKind.DIGEST_SKEW,
                Level.WARNING,
                name,
                f"{name} is {len(digests)} different files: {each}.",
            )


def of_grants(table: ModelTable, grants: Iterable[GrantLook]) -> Iterator[Finding]:
    """Yield patterns that are granted but fit nothing that any backend hosts.

    Models of backends that are silent count as hosted.
    """
    names = [name for state in table.backends for model in state.models if (name := canonical(model.name))]
    holders: dict[str, list[str]] = {}
    for grant in grants:
        holders.setdefault(grant.pattern, []).append(
            f"tenant {grant.tenant}" if grant.key is None else f"key {grant.key} of tenant {grant.tenant}"
        )
    for pattern, holding in sorted(holders.items()):
        if any(matches(pattern, name) for name in names):
            continue
        is_glob = "*" in pattern or "?" in pattern
        yield Finding(
            FindingKind.CLOUD_MODEL_MISSING if is_cloud(pattern) else FindingKind.MODEL_MISSING,
            Level.NOTE if is_glob else Level.WARNING,
            pattern,
            f"No backend hosts {'any model like ' if is_glob else ''}{pattern}, granted to {_listed(holding)}.",
        )


def of_cold_loads(loads: Iterable[ColdLoads], *, span: str) -> Iterator[Finding]:
    """Yield models that backends load again and again. `span` says how far the figures go back."""
    for each in loads:
        if each.cold < COLD_LOADS or each.load_us < COLD_SHARE * each.busy_us:
            continue
        yield Finding(
            FindingKind.COLD_LOADS,
            Level.WARNING,
            f"{each.model} on {each.backend}",
            f"{each.backend} loaded {each.model} {each.cold:,} times for {each.requests:,} requests within {span}:"
            f" {100 * each.load_us // each.busy_us} % of its time for that model, {each.load_us / 1e6:,.0f} s.",
        )


def _numbers(version: str | None) -> tuple[int, ...] | None:
    """Return a version's numbers, None where it names no release."""
    found = _VERSION.match(version or "")
    numbers = None if found is None else tuple(map(int, found.groups()))
    return None if numbers == _UNRELEASED else numbers


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
