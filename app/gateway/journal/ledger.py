"""The ledger of one app process: its own journal, those it adopted, the loops that keep them moving."""

import errno
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import msgspec
import structlog

from app.gateway.journal.adoption import Adopter
from app.gateway.journal.entry import open_entry
from app.gateway.journal.journal import Journal
from app.gateway.journal.layout import JournalSize
from app.gateway.journal.shipper import Pace, Shipper
from db.redis.usage_stream import HolderStream
from domain.errors import LedgerFull
from domain.ports import OpenEntry
from domain.usage import Admission, UsageRecord

_RESTART_S: Final = 1.0
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

_decode_record = msgspec.msgpack.Decoder(UsageRecord).decode
_log = structlog.get_logger()


class LedgerState(msgspec.Struct, frozen=True):
    """What the metrics show.

    Attributes
    ----------
    is_full
        Whether new requests are refused.
    open_records
        Requests that run now.
    unshipped_records
        Settled records that never left this process, all held journals together.
    unconfirmed_records
        Settled records not known to be in Postgres; includes the unshipped.
    oldest_unconfirmed_age_s
        How long ago the oldest of those was settled; 0 if there is none.
    ring_bytes_free
        Room for settled records in this process's own journal, what open requests may need deducted.
    adopted_journals
        Journals of dead processes whose records are still on their way.
    """

    is_full: bool
    open_records: int
    unshipped_records: int
    unconfirmed_records: int
    oldest_unconfirmed_age_s: float
    ring_bytes_free: int
    adopted_journals: int


class UsageLedger:
    """Implements `domain.ports.Ledger`; made by `running_ledger`."""

    def __init__(
        self,
        directory: Path,
        size: JournalSize,
        shipper: Shipper,
        pace: Pace,
        on_adopted: Callable[[Sequence[UsageRecord]], None],
    ) -> None:
        self._on_adopted = on_adopted
        self._directory = directory
        self._size = size
        self._shipper = shipper
        self._pace = pace
        self._adopter = Adopter(directory)
        self._journal: Journal | None = None

    def open(self, admission: Admission) -> OpenEntry:
        """Open the record of a request that is being let in.

        Raises
        ------
        LedgerFull
            There is no room, or no journal; nothing was written.
        """
        if self._journal is None:
            raise LedgerFull("no journal")
        return open_entry(self._journal, admission)

    def unconfirmed(self) -> Iterator[UsageRecord]:
        """Return every settled record that Postgres is not known to have, of all held journals."""
        for holding in self._shipper.holdings:
            yield from _records(holding.journal)

    def state(self) -> LedgerState:
        """Return what the metrics show. Cheap enough for every scrape."""
        holdings = self._shipper.holdings
        settled = [us for holding in holdings if (us := holding.journal.oldest_settled_us) is not None]
        own = self._journal
        return LedgerState(
            is_full=own is None or own.is_full,
            open_records=own.open_count if own else 0,
            unshipped_records=sum(holding.unshipped for holding in holdings),
            unconfirmed_records=sum(holding.unconfirmed for holding in holdings),
            oldest_unconfirmed_age_s=max(0.0, time.time() - min(settled) / 1e6) if settled else 0.0,
            ring_bytes_free=max(0, own.ring_bytes_free) if own else 0,
            adopted_journals=sum(holding.adopted for holding in holdings),
        )

    async def start(self) -> None:
        """Create this process's journal.

        A disk without room is not fatal: requests are refused until there is some.

        Raises
        ------
        OSError
            The directory cannot be used.
        """
        try:
            self._journal = await anyio.to_thread.run_sync(Journal.create, self._directory, self._size)
        except OSError as exc:
            if exc.errno not in _NO_ROOM:
                raise
            _log.error("journal_not_created", error=str(exc))
            return
        self._shipper.hold(self._journal, adopted=False)

    async def ship(self) -> None:
        """Ship for ever."""
        await self._shipper.run()

    async def sync(self) -> None:
        """Bound what a power loss may cost, for ever."""
        is_failing = False
        while True:
            await anyio.sleep(self._pace.sync)
            try:
                for holding in self._shipper.holdings:
                    await anyio.to_thread.run_sync(holding.journal.sync)
            except OSError as exc:
                if not is_failing:
                    _log.error("journal_sync_failed", error=str(exc))
                is_failing = True
            else:
                is_failing = False

    async def adopt(self) -> None:
        """Look for journals of dead processes, for ever; create our own if there was no room for it."""
        while True:
            for journal in await anyio.to_thread.run_sync(self._adopter.adopt_all):
                self._shipper.hold(journal, adopted=True)
                self._on_adopted(tuple(_records(journal)))
            await anyio.sleep(self._pace.adopt)
            if self._journal is None:
                await self.start()

    async def close(self) -> None:
        """Ship what can be shipped in time, then let go of every journal; others adopt what is left."""
        with anyio.move_on_after(self._pace.close):
            await self._shipper.drain()
        self._journal = None
        for holding in self._shipper.release():
            if holding.unconfirmed or holding.journal.open_count:
                _log.warning(
                    "journal_left_for_adoption",
                    journal=holding.journal.path.name,
                    records=holding.unconfirmed,
                    open=holding.journal.open_count,
                )
            await anyio.to_thread.run_sync(
                holding.journal.discard if holding.is_empty else holding.journal.close
            )


@asynccontextmanager
async def running_ledger(
    directory: Path,
    *,
    stream: HolderStream,
    enqueue: Callable[[], Awaitable[object]],
    size: JournalSize | None = None,
    pace: Pace | None = None,
    on_adopted: Callable[[Sequence[UsageRecord]], None] = lambda _: None,
) -> AsyncIterator[UsageLedger]:
    """Hold a journal and keep it shipped while the context lasts.

    Leave it only when no request runs any more: an entry still open is closed as lost by whoever adopts.

    Parameters
    ----------
    directory
        Where journals live: a local file system that outlives the process, shared by the app processes of one
        machine.
    stream
        Where settled records go.
    enqueue
        Asks for a run of `usage.account`; a RedisError or OSError from it is ignored.
    size
        Of this process's journal.
    pace
        How often things happen.
    on_adopted
        Hears of the settled records of each adopted journal.

    Raises
    ------
    OSError
        The directory cannot be used.
    """
    pace = pace or Pace()
    ledger = UsageLedger(directory, size or JournalSize(), Shipper(stream, enqueue, pace), pace, on_adopted)
    await ledger.start()
    tasks = anyio.create_task_group()
    await tasks.__aenter__()
    try:
        for loop in (ledger.ship, ledger.sync, ledger.adopt):
            tasks.start_soon(_keep_running, loop)
        yield ledger
    finally:
        tasks.cancel_scope.cancel()
        # `async with` would wrap whatever the caller raised in an exception group.
        await tasks.__aexit__(None, None, None)
        with anyio.CancelScope(shield=True):
            await ledger.close()


def _records(journal: Journal) -> Iterator[UsageRecord]:
    """Return the settled records of a journal that are not confirmed; damaged ones are left out."""
    everything = journal.cut(journal.tail, journal.first_number, journal.next_number)
    for payload in journal.payloads(everything) if everything is not None else ():
        with suppress(msgspec.MsgspecError):
            yield _decode_record(payload)


async def _keep_running(loop: Callable[[], Awaitable[None]]) -> None:
    """Run a loop again if a mistake of ours ends it: it must not take the process's requests with it."""
    while True:
        try:
            await loop()
        except Exception:  # noqa: BLE001 - whatever the mistake, accounting must go on
            _log.exception("ledger_loop_failed", loop=getattr(loop, "__name__", "loop"))
        await anyio.sleep(_RESTART_S)
