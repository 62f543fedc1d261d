"""`leases.sweep`: what dead processes hold is given back."""

from collections.abc import Awaitable, Callable, Collection

import structlog

from db.redis.limit_recounts import LimitLeases

_log = structlog.get_logger()


async def sweep(leases: LimitLeases, live: Callable[[], Awaitable[Collection[str] | None]]) -> int:
    """Give back the reservations of processes that are not live; return how many requests those were for.

    `live` says which processes are; None if nobody knows for certain, and then nothing is taken from anybody.

    Safe to run twice and at the same time: what was given back is marked. It closes no records: whoever finds the
    journal of a dead process settles each of its requests.

    Raises
    ------
    RedisError, OSError
        Redis is out of reach. The next run goes on.
    """
    # Read first: a process that begins afterwards is protected by the age of its reservations.
    found = await live()
    if found is None:
        return 0
    processes = frozenset(found)
    returned = 0
    for tenant_id in await leases.tenants():
        returned += await leases.sweep(tenant_id, processes)
    if returned:
        _log.warning("leases_swept", requests=returned, live=len(processes))
    return returned
