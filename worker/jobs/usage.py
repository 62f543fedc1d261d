"""`usage.account`: batches of usage from the Redis stream into Postgres, confirmed after the commit."""

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec
import structlog
from sqlalchemy.exc import DBAPIError

from db.redis.usage_stream import AccountingStream, StreamEntry, pack_array
from db.usage import blames_a_value
from domain.usage import UsageRecord

READ_ENTRIES: Final = 16
WRITE_RECORDS: Final = 2048  # one statement writes these in about a fifth of its time limit

Insert = Callable[[Sequence[UsageRecord]], Awaitable[int]]

_log = structlog.get_logger()
_batch_decoder = msgspec.msgpack.Decoder(list[UsageRecord])
_pieces_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_record_decoder = msgspec.msgpack.Decoder(UsageRecord)
_encoder = msgspec.msgpack.Encoder(uuid_format="bytes")


class Accounted(msgspec.Struct, frozen=True):
    """What one run did: rows changed, batches confirmed, batches of which something was set aside."""

    rows: int = 0
    batches: int = 0
    dead_batches: int = 0

    def plus(self, other: "Accounted") -> "Accounted":
        """Return the sum of both."""
        return Accounted(
            self.rows + other.rows, self.batches + other.batches, self.dead_batches + other.dead_batches
        )


class _Batch:
    """A stream entry, understood as far as possible. `refused` is what cannot become a row, encoded."""

    __slots__ = ("entry", "reason", "records", "refused")

    def __init__(self, entry: StreamEntry) -> None:
        self.entry = entry
        self.reason = ""
        self.refused: list[bytes] = []
        self.records: list[UsageRecord] = []


async def account(*, stream: AccountingStream, insert: Insert, budget_s: float = 30.0) -> Accounted:
    """Move every waiting batch to Postgres, oldest first, and confirm each after its commit.

    Safe to run twice and at the same time: rows are keyed by request id, and confirming changes nothing the
    second time. What can never become a row goes to the stream of dead entries and is confirmed as `dead`;
    its holder then keeps it in a file, so it is neither lost nor sent again.

    Parameters
    ----------
    stream
        Where the batches wait.
    insert
        Writes and commits records, keyed by request id.
    budget_s
        When to stop although more is waiting; the next run goes on. Well under the job's time limit.

    Raises
    ------
    UsageStreamUnavailable
        Redis failed. Everything else that `insert` raises for lack of a database passes through as well; what
        was not confirmed stays in the stream.
    """
    done = Accounted()
    deadline = time.monotonic() + budget_s
    while time.monotonic() < deadline:
        entries = await stream.oldest(READ_ENTRIES)
        if not entries:
            break
        for batches in _grouped(_understand(entry) for entry in entries):
            done = done.plus(await _account_group(batches, stream=stream, insert=insert))
    return done


async def _account_group(batches: Sequence[_Batch], *, stream: AccountingStream, insert: Insert) -> Accounted:
    rows, refused = await _insert_all([record for batch in batches for record in batch.records], insert)
    dead = 0
    for batch in batches:
        for record in batch.records:
            if record in refused:
                batch.refused.append(_encoder.encode(record))
                batch.reason = batch.reason or "refused by the database"
        if not batch.reason:
            await stream.finish(batch.entry)
            continue
        dead += 1
        _log.error(
            "usage_batch_dead",
            holding=batch.entry.holding,
            range=str(batch.entry.range),
            reason=batch.reason,
            records=len(batch.refused),
        )
        payload = pack_array(batch.refused) if batch.refused else batch.entry.payload
        await stream.set_aside(batch.entry, reason=batch.reason, payload=payload)
    return Accounted(rows=rows, batches=len(batches), dead_batches=dead)


async def _insert_all(records: Sequence[UsageRecord], insert: Insert) -> tuple[int, set[UsageRecord]]:
    """Write records; return how many rows changed and which records the database will never take."""
    if not records:
        return 0, set()
    try:
        return await insert(records), set()
    except DBAPIError as exc:
        if not blames_a_value(exc):
            raise
    if len(records) == 1:
        return 0, set(records)
    half = len(records) // 2
    first_rows, first_refused = await _insert_all(records[:half], insert)
    rest_rows, rest_refused = await _insert_all(records[half:], insert)
    return first_rows + rest_rows, first_refused | rest_refused


def _grouped(batches: Iterable[_Batch]) -> Iterator[list[_Batch]]:
    """Yield the batches in groups that one statement may write."""
    group: list[_Batch] = []
    size = 0
    for batch in batches:
        if group and size + len(batch.records) > WRITE_RECORDS:
            yield group
            group, size = [], 0
        group.append(batch)
        size += len(batch.records)
    yield group


def _understand(entry: StreamEntry) -> _Batch:
    """Decode an entry; one strange record must not take its whole batch with it."""
    batch = _Batch(entry)
    if entry.holding is None or entry.range is None:
        batch.reason = "not written by a holder"
        return batch
    try:
        batch.records = _batch_decoder.decode(entry.payload)
    except msgspec.DecodeError:
        _understand_pieces(batch)
    if not batch.reason and len(batch.records) != entry.range.count:
        batch.reason = "wrong number of records"
    return batch


def _understand_pieces(batch: _Batch) -> None:
    batch.reason = "not readable"
    try:
        pieces = _pieces_decoder.decode(batch.entry.payload)
    except msgspec.DecodeError:
        return
    for piece in pieces:
        try:
            batch.records.append(_record_decoder.decode(piece))
        except msgspec.DecodeError:
            batch.refused.append(bytes(piece))
