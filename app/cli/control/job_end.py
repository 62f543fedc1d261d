"""Waiting for the end of a job's run, wherever its workers are."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from app.cli.failure import CommandFailed
from app.cli.fleet_lines import LastRun
from domain.jobs import JobOrder


async def next_end(
    order: JobOrder, *, after: LastRun | None, last: Callable[[], Awaitable[LastRun | None]], every_s: float
) -> LastRun:
    """Return the first run that ended since the one that was the last before it was ordered.

    Parameters
    ----------
    after
        The last run before, None if there was none.
    last
        Returns the last run as it is now; asked every so many seconds.

    Raises
    ------
    CommandFailed
        None has ended within the time that the job may take.
    """
    give_up_at = time.monotonic() + order.timeout_s
    while time.monotonic() < give_up_at:
        run = await last()
        if run is not None and run != after:
            return run
        await asyncio.sleep(every_s)
    raise CommandFailed(f"{order.name} has not ended after {order.timeout_s} s; does a worker run?")
