"""What `backends` and `jobs` print."""

from datetime import datetime

import msgspec


class DrainLine(msgspec.Struct, frozen=True):
    """Who took a backend out of service, when and why."""

    at: datetime
    by: str
    reason: str


class BackendLine(msgspec.Struct, frozen=True):
    """One backend as it is at the moment.

    Attributes
    ----------
    address, has_token, max_in_flight
        What the settings say; None where the settings here do not name the backend.
    in_flight
        Requests that it has from all app processes; None where Redis does not tell.
    cooling_in
        App processes that leave it out for a moment because it failed; None likewise.
    drain
        Why it gets no new requests; None: it gets them.
    effective
        Whether every app process acts upon that; None where Redis does not tell.
    """

    name: str
    address: str | None
    has_token: bool | None
    condition: str
    error: str | None
    version: str | None
    polled_at: datetime | None
    last_ok_at: datetime | None
    models: tuple[str, ...]
    loaded: tuple[str, ...]
    in_flight: int | None
    max_in_flight: int | None
    cooling_in: int | None
    drain: DrainLine | None
    effective: bool | None


class LastRun(msgspec.Struct, frozen=True):
    """How a job ran last. `outcome` is complete, failed or aborted, `error` what kind of failure."""

    outcome: str
    started_at: datetime
    ended_at: datetime
    error: str | None

    @property
    def failed(self) -> bool:
        """Whether it did not do what it should."""
        return self.outcome != "complete"


class JobLine(msgspec.Struct, frozen=True):
    """One kind of job. `state` is idle, queued or active; `next_run_at` is when a worker orders it by itself."""

    name: str
    state: str
    next_run_at: datetime | None
    last_run: LastRun | None


class JobsSummary(msgspec.Struct, frozen=True):
    """The job queue: orders that wait, runs, workers that live, and every kind of job."""

    queued: int
    active: int
    workers: int
    jobs: tuple[JobLine, ...]
