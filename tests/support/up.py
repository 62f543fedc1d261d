"""`neuronetz-gateway up` as somebody types it: started, watched through its log, ended in every way."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.embedded.process import children_of, is_alive
from tests.support.waiting import wait_until

READY_WITHIN_S = 60.0  # the promise is 30 s on an idle machine; tests share theirs
ENDED_WITHIN_S = 30.0
REPOSITORY = Path(__file__).parents[2]


class Up:
    """A running `up`. `ready` is what it printed, parsed when it is JSON."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self._log = log
        self.ready: dict[str, Any] = {}

    def log(self) -> str:
        """Return its log so far."""
        return self._log.read_text()

    def descendants(self) -> list[int]:
        """Return every process below it, the children of children too."""
        found = children_of(self.process.pid)
        for pid in found:
            found.extend(children_of(pid))
        return found

    def end(self, number: int, *, within_s: float = ENDED_WITHIN_S) -> int:
        """Send it a signal and return its exit code once it ended."""
        self.process.send_signal(number)
        return self.process.wait(within_s)


@contextmanager
def running_up(
    state_dir: Path, *words: str, launcher: tuple[str, ...] = (), environ: dict[str, str] | None = None
) -> Iterator[Up]:
    """Run `up --json` on a free port until the block ends, unless the block ended it.

    `launcher` are words that stand before Python's path, `environ` is added to the environment.
    """
    with tempfile.TemporaryDirectory(prefix="nng-log-") as directory:
        log = Path(directory) / "log"
        with log.open("w") as sink:
            process = subprocess.Popen(
                [
                    *(*launcher, sys.executable, "-m", "app", "up", "--json"),
                    *("--port", "0", "--state-dir", str(state_dir), *words),
                ],
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                cwd=REPOSITORY,
                env=_neutral_environment() | (environ or {}),
            )
        with process:
            up = Up(process, log)
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line, up.log()
                up.ready = json.loads(line)
                yield up
            finally:
                if process.poll() is None:
                    process.terminate()


def uv_run() -> tuple[str, ...]:
    """Return the words of `uv run` that change nothing in the environment; none without uv."""
    uv = shutil.which("uv")
    return () if uv is None else (uv, "run", "--no-sync")


def all_gone(pids: list[int], *, within_s: float) -> None:
    """Wait until none of the processes is alive.

    Raises
    ------
    AssertionError
        Some still were after `within_s` seconds.
    """
    wait_until(lambda: not any(is_alive(pid) for pid in pids), within_s=within_s)


def _neutral_environment() -> dict[str, str]:
    # What a developer has configured for a gateway of their own is none of the tests' business.
    prefixes = ("GATEWAY_", "OLLAMA_", "DATABASE_", "REDIS_", "MODEL_DISCOVERY_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
