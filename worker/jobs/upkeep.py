"""`usage.roll_up`, `usage.prune` and `keys.expire`: what only time makes necessary."""

import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import date, timedelta
from typing import Final

import structlog

from db.retention import Retention
from db.usage_roll_ups import UsageRollUps
from domain.usage_spans import first_of_month
from domain.values import KeyId

# A process that slept for longer finds a gap in the numbers and drops its caches whole.
KEEP_REVOCATIONS: Final = timedelta(days=30)

# Whoever sends a creation again does so within minutes; between two runs they are remembered for longer.
KEEP_CREATIONS: Final = timedelta(days=1)

# Each try waits for the table itself, so there is no pause between them.
_TRIES: Final = 5

_log = structlog.get_logger()


async def roll_up(roll_ups: UsageRollUps, *, budget_s: float = 480.0) -> int:
    """Bring the sums of every hour up to its rows, oldest first; return how many hours were made.

    Safe to run twice and at the same time: an hour is made by whoever comes first. `budget_s` is when to stop
    although more is waiting; the next run goes on.
    """
    deadline = time.monotonic() + budget_s
    # Taken once: the hour that traffic falls into would never be done.
    hours = await roll_ups.touched()
    made = 0
    for done, hour in enumerate(hours):
        if time.monotonic() >= deadline:
            _log.warning("usage_roll_up_unfinished", hours_left=len(hours) - done)
            break
        made += await roll_ups.roll_up(hour)
    if made:
        _log.info("usage_rolled_up", hours=made, oldest=hours[0].isoformat())
    return made


async def prune(retention: Retention, roll_ups: UsageRollUps, *, keep_months: int | None) -> tuple[date, ...]:
    """Make months ahead, drop what is too old, and return the months dropped.

    Safe to run twice and at the same time: what is there is not made again, what is gone not dropped again.

    Parameters
    ----------
    keep_months
        Whole months kept before the current one; None keeps the rows of usage for ever.
    """
    await retention.make_months_ahead()
    deleted = await retention.delete_revocations(KEEP_REVOCATIONS)
    if deleted:
        _log.info("revocations_pruned", rows=deleted)
    forgotten = await retention.forget_creations(KEEP_CREATIONS)
    if forgotten:
        _log.info("creations_forgotten", rows=forgotten)
    expired = () if keep_months is None else await retention.expired_months(keep_months)
    return tuple([month for month in expired if await _drop(month, retention, roll_ups)])


async def _drop(month: date, retention: Retention, roll_ups: UsageRollUps) -> bool:
    for _ in range(_TRIES):
        for hour in await roll_ups.touched():
            if first_of_month(hour) == month:
                await roll_ups.roll_up(hour)
        if await retention.drop_month(month):
            _log.info("usage_month_dropped", month=month.isoformat())
            return True
    _log.warning("usage_month_not_dropped", month=month.isoformat(), tries=_TRIES)
    return False


async def expire_keys(announce: Callable[[], Awaitable[Sequence[KeyId]]]) -> int:
    """Have the caches and the running streams of expired keys dropped; return how many keys expired.

    Safe to run twice and at the same time: an expiry is announced once. No refusal depends on it, as every
    request is checked against the clock.
    """
    expired = await announce()
    if expired:
        _log.info("keys_expired", key_ids=[str(key_id) for key_id in expired])
    return len(expired)
