"""`revocation.fanout`: what the sequence in Postgres says becomes news in every app process."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from db.redis.revocation_channel import Announcement, RevocationAnnouncer
from domain.tenants import Revocation

MAX_ROWS: Final = 1000

_log = structlog.get_logger()


async def fan_out(
    *,
    latest: Callable[[], Awaitable[int]],
    since: Callable[[int, int], Awaitable[Sequence[Revocation]]],
    announcer: RevocationAnnouncer,
) -> int:
    """Announce everything that was not announced yet; return the highest number announced.

    Safe to run twice and at the same time: the announcer refuses numbers that are not higher than the last.

    Raises
    ------
    RedisError, OSError
        Redis is out of reach. What `latest` and `since` raise for lack of a database passes through as well.
    """
    while True:
        epoch = await announcer.epoch()
        newest = await latest()
        if epoch is not None and newest <= epoch:
            return epoch
        rows = await since(epoch, MAX_ROWS) if epoch is not None else ()
        complete = 0 < len(rows) < MAX_ROWS
        seq = rows[-1].seq if complete else newest
        news = Announcement(after=epoch or 0, seq=seq, rows=tuple(rows) if complete else ())
        if await announcer.announce(news):
            _log.info("revocations_announced", seq=seq, rows=len(rows))
