"""Several app processes over two simulated backends: what benchmarks of more than one process run."""

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from app.embedded import ports
from bench.processes import REPOSITORY, running
from bench.targets import MODEL, simulator, up
from bench.wire import OK, Connection, get

PROCESSES = 4
FAST, SLOW = MODEL, "qwen3:8b"
READY_WITHIN_S = 60.0
CORES = frozenset(os.sched_getaffinity(0))
_SLOW_STREAMS = ("--token-interval-ms", "25", "--tokens", "100000")
"""Streams that outlast whatever is done to them."""
_PAUSE_S = 0.05


@dataclass(frozen=True)
class Site:
    """A running gateway.

    Parameters
    ----------
    ports
        Where each of its app processes listens.
    environ
        The settings of its processes, secrets included.
    slow
        The address of the simulated backend that has the model `SLOW`.
    up
        The process that started the stores, the worker and the first app.
    """

    ports: tuple[int, ...]
    environ: Mapping[str, str]
    slow: str
    up: int

    async def ready(self) -> None:
        """Return once every app process is ready.

        Raises
        ------
        TimeoutError
            One is not after `READY_WITHIN_S` seconds.
        """
        async with asyncio.timeout(READY_WITHIN_S):
            for port in self.ports:
                while not await _is_ready(port):  # noqa: ASYNC110 - only asking tells
                    await asyncio.sleep(_PAUSE_S)


@contextmanager
def running_site(settings: Mapping[str, str] | None = None, *, processes: int = PROCESSES) -> Iterator[Site]:
    """Run `up` with its one app process, and further ones beside it, until the block ends.

    `settings` are further environment variables.
    """
    with ExitStack() as stack:
        fast = stack.enter_context(simulator("fast", CORES, model=FAST))
        slow = stack.enter_context(simulator("slow", CORES, *_SLOW_STREAMS, model=SLOW))
        backends = [{"name": each.name, "base_url": each.url} for each in (fast, slow)]
        ours = {"OLLAMA_BACKENDS": json.dumps(backends), "GATEWAY_WORKERS": "1", **(settings or {})}
        first = stack.enter_context(up(ours, cores=CORES))
        environ = {**first.environ(), **(settings or {})}
        further = [stack.enter_context(_further_app(environ)) for _ in range(1, processes)]
        yield Site((first.port, *further), environ, slow=slow.url, up=first.pid)


@contextmanager
def _further_app(environ: Mapping[str, str]) -> Iterator[int]:
    port = ports.pick()
    own = {**environ, "GATEWAY_PORT": str(port)}
    with running((sys.executable, "-m", "app", "serve"), cores=CORES, environ=own, cwd=REPOSITORY):
        yield port


async def _is_ready(port: int) -> bool:
    try:
        connection = await Connection.open(port)
        status = await connection.ask(get("/readyz"))
    except (OSError, EOFError):
        return False
    await connection.close()
    return status == OK
