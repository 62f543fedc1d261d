"""What the app process measures. Labels are bounded: routes, backends and outcomes, never keys or paths."""

import os
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from domain.usage import UsageOutcome

_LAG_SECONDS: Final = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5)
_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters and histograms of one app process.

    `multiprocess_dir` is the directory through which several app processes add up their figures; None keeps
    them in this process alone. The library reads it from `PROMETHEUS_MULTIPROC_DIR` when it is imported.
    """

    def __init__(self, *, multiprocess_dir: str | None = None) -> None:
        self._multiprocess_dir = multiprocess_dir
        self._pending: dict[tuple[Counter, tuple[str, ...]], int] = {}
        self.registry = CollectorRegistry(auto_describe=False)
        self.requests = Counter(
            "nng_requests", "Requests answered, by route template and status.", ["route", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.outcomes = Counter(
            "nng_admitted_requests", "Admitted requests, by route and how they ended.", ["route", "outcome"],
            registry=self.registry,
        )  # fmt: skip
        self.tokens = Counter(
            "nng_tokens", "Tokens booked, by direction and whether a backend measured them.",
            ["direction", "source"], registry=self.registry,
        )  # fmt: skip
        self.first_token = Histogram(
            "nng_time_to_first_token_seconds", "Admission to the first released record.", ["route"],
            registry=self.registry, buckets=_SECONDS,
        )  # fmt: skip
        self.attempts = Counter(
            "nng_attempts", "Attempts at backends, by how they went.", ["backend", "result"],
            registry=self.registry,
        )  # fmt: skip
        self.failovers = Counter(
            "nng_failovers", "Requests that moved on from this backend to another.", ["backend"],
            registry=self.registry,
        )  # fmt: skip
        self.in_flight = Gauge(
            "nng_in_flight_requests", "Admitted requests that run now.", registry=self.registry,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.buffered = Gauge(
            "nng_buffered_request_bytes", "Bytes of request bodies held until a backend answers.",
            registry=self.registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.waiting = Gauge(
            "nng_waiting_requests", "Admitted requests that wait for a place at a backend.",
            registry=self.registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.time_in_line = Histogram(
            "nng_time_in_line_seconds", "How long requests waited that found no place at once.",
            registry=self.registry, buckets=_SECONDS,
        )  # fmt: skip
        self.line_refusals = Counter(
            "nng_line_refusals",
            "Requests refused because no place came free: full, too_long, drained, outage, fault.",
            ["reason"], registry=self.registry,
        )  # fmt: skip
        self.places_in_use = Gauge(
            "nng_places_in_use", "Places taken at backends with max_in_flight, over all models.", ["backend"],
            registry=self.registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.places_taken_alone = Counter(
            "nng_places_taken_alone", "Places taken out of a process's share while Redis was out of reach.",
            ["backend"], registry=self.registry,
        )  # fmt: skip
        self.backend_up = Gauge(
            "nng_backend_up", "1 if the last poll of the backend succeeded.", ["backend"],
            registry=self.registry, multiprocess_mode="livemostrecent",
        )  # fmt: skip
        self.backend_drained = Gauge(
            "nng_backend_drained", "1 while the backend is drained by an operator.", ["backend"],
            registry=self.registry, multiprocess_mode="livemostrecent",
        )  # fmt: skip
        self.model_table_age = Gauge(
            "nng_model_table_age_seconds", "Age of the model table in use.", registry=self.registry,
            multiprocess_mode="livemax",
        )  # fmt: skip
        self.journal_open = Gauge(
            "nng_journal_open_records", "Requests whose record is open.", registry=self.registry,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.journal_unconfirmed = Gauge(
            "nng_journal_unconfirmed_records", "Settled records that Postgres has not confirmed.",
            registry=self.registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.dropped_fields = Counter(
            "nng_dropped_request_fields", "Request fields not forwarded: unknown, or against policy.", ["route"],
            registry=self.registry,
        )  # fmt: skip
        self.unavailable = Counter(
            "nng_unavailable", "Requests refused for trouble of the gateway's own, by what was wrong.", ["reason"],
            registry=self.registry,
        )  # fmt: skip
        self.shared_limits = Counter(
            "nng_shared_limit_admissions",
            "Requests let in by this process's share of their limits, because Redis could not be asked.",
            registry=self.registry,
        )
        self.limits_shared = Gauge(
            "nng_limits_shared_tenants", "Tenants whose limits app processes decide by their shares.",
            registry=self.registry, multiprocess_mode="livemax",
        )  # fmt: skip
        self.live_processes = Gauge(
            "nng_live_processes", "App processes among which limits would be shared, as this one knows.",
            registry=self.registry, multiprocess_mode="livemax",
        )  # fmt: skip
        self.revocation_lag = Histogram(
            "nng_revocation_lag_seconds",
            "From a revocation's time in the database until this process acted; needs clocks that agree.",
            registry=self.registry, buckets=_LAG_SECONDS,
        )  # fmt: skip
        self.revocation_seq = Gauge(
            "nng_revocation_seq", "Newest revocation acted upon, of the app process that is furthest behind.",
            registry=self.registry, multiprocess_mode="livemin",
        )  # fmt: skip
        self.revocation_cuts = Counter(
            "nng_revocation_cuts", "Running exchanges ended because their key or model was revoked.", ["reason"],
            registry=self.registry,
        )  # fmt: skip
        self.failed_logins = Counter(
            "nng_admin_failed_logins",
            "Failed admin logins by how the audit log has them: alone, together with others, or lost.", ["noted"],
            registry=self.registry,
        )  # fmt: skip

    def add(self, counter: Counter, labels: tuple[str, ...], amount: int = 1) -> None:
        """Add to a counter at the next flush: on the hot path a dictionary is ten times cheaper than a counter."""
        key = (counter, labels)
        self._pending[key] = self._pending.get(key, 0) + amount

    def flush(self) -> None:
        """Bring the counters up to date."""
        pending, self._pending = self._pending, {}
        for (counter, labels), amount in pending.items():
            counter.labels(*labels).inc(amount)

    def exposition(self) -> bytes:
        """Return all figures in the Prometheus text format, of all app processes if they share a directory."""
        self.flush()
        if self._multiprocess_dir is None:
            return generate_latest(self.registry)
        _forget_dead(self._multiprocess_dir)
        shared = CollectorRegistry(auto_describe=False)
        MultiProcessCollector(shared, path=self._multiprocess_dir)  # type: ignore[no-untyped-call]
        return generate_latest(shared)


def _forget_dead(directory: str) -> None:
    """Drop the gauges of app processes that died: nobody else says that their requests no longer run."""
    pids = {path.stem.rpartition("_")[2] for path in Path(directory).glob("gauge_live*.db")}
    for pid in pids:
        if pid.isdigit() and not _is_alive(int(pid)):
            mark_process_dead(pid, path=directory)  # type: ignore[no-untyped-call]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class RouteMetrics:
    """The figures of one route."""

    __slots__ = ("_metrics", "_route", "first_token")

    def __init__(self, metrics: Metrics, route: str) -> None:
        self._metrics = metrics
        self._route = route
        self.first_token = metrics.first_token.labels(route)

    def answered(self, status: int) -> None:
        """Count one answered request."""
        self._metrics.add(self._metrics.requests, (self._route, str(status)))

    def ended(self, outcome: UsageOutcome) -> None:
        """Count how one admitted request ended."""
        self._metrics.add(self._metrics.outcomes, (self._route, outcome.value))

    def unavailable(self, reason: str) -> None:
        """Count a refusal for trouble of our own."""
        self._metrics.add(self._metrics.unavailable, (reason,))

    def dropped(self, fields: int) -> None:
        """Count request fields that were not forwarded."""
        if fields:
            self._metrics.add(self._metrics.dropped_fields, (self._route,), fields)
