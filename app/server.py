"""Starting granian: the parent that supervises the app processes."""

import os
import shutil
import signal
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.mp import MPServer

from app.farewell import FAREWELL, farewell_s
from app.settings import AppSettings

HEADER_TIMEOUT_MS: Final = 15_000
"""granian's limit for slow request heads. The same timer ends idle kept-alive connections."""
HEADER_BUFFER_BYTES: Final = 65_536
KILL_MARGIN_S: Final = 15
RESPAWN_INTERVAL_S: Final = 0.5
MAX_DEATHS: Final = 10
DEATHS_WITHIN_S: Final = 60.0


class PatientServer(MPServer):
    """granian's parent, which replaces an app process also if the one before it was killed moments ago.

    granian gives up, and ends every other process with it, when the same process ends twice within seconds. That is
    right for one that ends by itself, because it cannot start. One that was killed (out of memory, by hand) says
    nothing of its successor: only more than `MAX_DEATHS` within `DEATHS_WITHIN_S` are too many.
    """

    def __init__(self, *arguments: Any, farewell_s: float, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._farewell_s = farewell_s
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)

    def _respawn_workers(
        self, workers: Sequence[int], spawn_target: Any, target_loader: Any, delay: float = 0
    ) -> None:
        killed = [index for index in workers if (self.wrks[index].inner.exitcode or 0) < 0]
        super()._respawn_workers(workers, spawn_target, target_loader, delay)
        for index in killed:
            now = time.monotonic()
            if len(self._deaths) < MAX_DEATHS or now - self._deaths[0] > DEATHS_WITHIN_S:
                self.respawned_wrks.pop(index, None)
            self._deaths.append(now)

    def _stop_workers(self) -> None:
        """Tell the app processes that they will have to stop, and after a moment to do so (`app/drain.py`)."""
        for worker in self.wrks:
            if worker.inner.is_alive():
                os.kill(worker.inner.pid, FAREWELL)
        time.sleep(self._farewell_s)
        super()._stop_workers()  # type: ignore[no-untyped-call] # granian leaves it untyped


def serve(settings: AppSettings) -> None:
    """Serve until SIGINT or SIGTERM. Blocks."""
    # A worker process inherits granian's handlers for the parent: told to stop while it still starts, it would
    # note that for nobody and be waited for until it is killed.
    os.register_at_fork(after_in_child=_end_when_told)
    # What still starts has nobody to say farewell to, and must not end of it. They inherit this.
    signal.signal(FAREWELL, signal.SIG_IGN)
    shared_metrics: Path | None = None
    if settings.workers > 1:
        shared_metrics = Path(tempfile.mkdtemp(prefix="nng-metrics-"))
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared_metrics)
    try:
        _granian(settings).serve()
    finally:
        if shared_metrics is not None:
            shutil.rmtree(shared_metrics, ignore_errors=True)


def _end_when_told() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def _granian(settings: AppSettings) -> PatientServer:
    return PatientServer(
        "app.main:create_from_environment",
        factory=True,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        workers=settings.workers,
        respawn_failed_workers=True,
        respawn_interval=RESPAWN_INTERVAL_S,
        workers_kill_timeout=int(settings.drain_s) + KILL_MARGIN_S,
        farewell_s=farewell_s(settings.drain_s),
        runtime_mode=RuntimeModes.st,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        websockets=False,
        backlog=max(128, settings.max_connections),
        backpressure=settings.max_connections,
        http1_settings=HTTP1Settings(
            header_read_timeout=HEADER_TIMEOUT_MS, max_buffer_size=HEADER_BUFFER_BYTES
        ),
        log_access=False,
        log_level=LogLevels.warning,
    )
