"""`revocation.fanout`: what the sequence in Postgres says becomes news in every app process."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from db.redis.revocation_channel import Announcement, RevocationAnnouncer
from domain.tenants import Revocation

MAX_ROWS: Final = 1000

_log = structlog.get_logger()


class Fanout:
    """Announces what was not announced yet. Safe to run twice and at the same time.

    Parameters
    ----------
    latest
        Returns the newest number in Postgres.
    since
        Returns the rows above a number in order, at most so many.
    announcer
        Where the news go.
    record
        Writes down what was revoked, where the operator wants that, before anybody hears of it. A disk that
        fails must not keep a revocation from spreading: its `OSError` only fails the run afterwards.
    """

    def __init__(
        self,
        *,
        latest: Callable[[], Awaitable[int]],
        since: Callable[[int, int], Awaitable[Sequence[Revocation]]],
        announcer: RevocationAnnouncer,
        record: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._latest = latest
        self._since = since
        self._announcer = announcer
        self._record = record
        self._announced: int | None = None

    async def run(self) -> int:
        """Announce until nothing is left to announce; return the number announced last.

        Raises
        ------
        RedisError, OSError
            Redis is out of reach, or the record could not be written. What the readers of Postgres raise passes
            through as well.
        """
        unrecorded: OSError | None = None
        # What this process announced last is most likely what was announced last: a wrong guess is refused.
        epoch = self._announced
        if epoch is None:
            epoch = await self._announcer.epoch()
        while True:
            news = await self._news(epoch)
            unrecorded = await self._recorded() or unrecorded
            if news is None:
                found = await self._announcer.epoch()
                if found == epoch:
                    break
                epoch = found
            elif await self._announcer.announce(news, instead_of=epoch):
                _log.info("revocations_announced", seq=news.seq, rows=len(news.rows))
                epoch = news.seq
            else:
                epoch = await self._announcer.epoch()
        self._announced = epoch
        if unrecorded is not None:
            raise unrecorded
        return epoch or 0

    async def _news(self, epoch: int | None) -> Announcement | None:
        """Return what to announce instead of an epoch, None if it is the newest number."""
        if epoch is not None and (rows := await self._since(epoch, MAX_ROWS)):
            if rows[-1].seq - epoch == len(rows):
                return Announcement(after=epoch, seq=rows[-1].seq, rows=tuple(rows))
            # Numbers are missing: pruned while nobody announced, or skipped by a fence after a restore.
            return Announcement(after=epoch, seq=rows[-1].seq)
        newest = await self._latest()
        if newest == epoch:
            return None
        if epoch is not None and newest > epoch:
            return await self._news(epoch)
        if epoch is not None:
            _log.warning("revocation_epoch_ahead", epoch=epoch, newest=newest)
        return Announcement(after=newest, seq=newest)

    async def _recorded(self) -> OSError | None:
        if self._record is None:
            return None
        try:
            await self._record()
        except OSError as exc:
            _log.error("revocations_not_recorded", error=type(exc).__name__)
            return exc
        return None
