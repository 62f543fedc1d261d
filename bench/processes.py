"""The processes under measurement: where they run, what they have used, and how they end."""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
STOP_S = 20.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SCHEDULED_TIME = 2
"""The kernel's number for the clock that counts the CPU time of all threads of a process, dead ones too."""


@dataclass(frozen=True)
class Cores:
    """Where things run: what is measured has a core to itself when there are two."""

    target: frozenset[int]
    others: frozenset[int]

    @property
    def apart(self) -> bool:
        """Whether target and load do not compete."""
        return not self.target & self.others


def split_cores() -> Cores:
    """Return the division of the cores this process may use."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        return Cores(frozenset(cores), frozenset(cores))
    return Cores(frozenset(cores[-1:]), frozenset(cores[:-1]))


def pin(pid: int, cores: frozenset[int]) -> None:
    """Keep every thread of a process on these cores. Threads and children to come inherit it."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


def cpu_s(pids: Sequence[int]) -> float:
    """Return user and system seconds the processes have used, in nanosecond steps where /proc has 10 ms."""
    return sum(time.clock_gettime(~pid << 3 | _SCHEDULED_TIME) for pid in pids)


def resident_bytes(pids: Sequence[int]) -> int:
    """Return how much memory the processes hold."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * _PAGE_BYTES


@contextmanager
def running(
    argv: Sequence[str],
    *,
    cores: frozenset[int],
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    errors: Path | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Run a program on these cores until the block ends; `errors` is where its standard error goes."""
    home = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        with Path(os.devnull if errors is None else errors).open("w") as sink:
            child = subprocess.Popen(
                argv, stdout=subprocess.PIPE, stderr=sink, text=True, env=environ, cwd=cwd
            )
    finally:
        os.sched_setaffinity(0, home)
    with child:
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()


def first_line(child: subprocess.Popen[str], errors: Path | None = None) -> str:
    """Return the line with which a program says that it is ready.

    Raises
    ------
    RuntimeError
        It ended instead.
    """
    if child.stdout is None or not (line := child.stdout.readline()):
        said = errors.read_text()[-2000:] if errors is not None else ""
        raise RuntimeError(f"{child.args!r} ended before it was ready. {said}")
    return line
