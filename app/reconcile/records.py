"""Rules: which settled records are not where they should be. Pure: what was read is given, and so is the time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from app.gateway.journal.inspection import JournalLook, KeptFile
from app.reconcile.findings import Finding, FindingKind, Records
from db.redis.usage_stream_look import DeadBatch, StreamLook, appended_at
from db.usage_look import LedgerRow
from domain.usage import UsageOutcome, UsageRecord
from domain.values import RequestId

LATE: Final = timedelta(seconds=30)
"""A record takes a second or two to its row. After this long something is in its way."""

_pieces_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_record_decoder = msgspec.msgpack.Decoder(UsageRecord)


class Ledger(msgspec.Struct, frozen=True):
    """What the rows say of the requests that were asked about. Those of the months `pruned` are gone rightly."""

    rows: Mapping[RequestId, LedgerRow]
    pruned: frozenset[date] = frozenset()

    def has(self, request_id: RequestId) -> bool:
        """Whether a request has a row."""
        return request_id in self.rows

    def is_done_with(self, record: UsageRecord) -> bool:
        """Whether a record's request has a row, or had one until retention dropped it."""
        return self.has(record.admission.request_id) or record.admission.period in self.pruned

    def calls_lost(self, record: UsageRecord) -> bool:
        """Whether a row says `lost` where the record knows better."""
        row = self.rows.get(record.admission.request_id)
        return (
            row is not None
            and row.outcome is UsageOutcome.LOST
            and record.settlement.outcome is not UsageOutcome.LOST
        )

    def behind(self, records: Iterable[UsageRecord]) -> tuple[UsageRecord, ...]:
        """Return the records that the ledger lacks or calls lost."""
        return tuple(each for each in records if self.calls_lost(each) or not self.is_done_with(each))

    def lacking(self, records: Iterable[UsageRecord]) -> tuple[UsageRecord, ...]:
        """Return the records that should have a row and have none."""
        return tuple(record for record in records if not self.is_done_with(record))


def records_in(payload: bytes) -> tuple[tuple[UsageRecord, ...], int]:
    """Return the records of a batch in Redis, and how many pieces of it are none."""
    try:
        pieces = _pieces_decoder.decode(payload)
    except msgspec.MsgspecError:
        return (), 1
    records = []
    for piece in pieces:
        try:
            records.append(_record_decoder.decode(piece))
        except msgspec.MsgspecError:
            continue
    return tuple(records), len(pieces) - len(records)


def in_journal(
    journal: JournalLook, ledger: Ledger, *, shipped: frozenset[RequestId], now: datetime
) -> Iterator[Finding]:
    """Yield what is wrong with one journal; `shipped` are the requests whose records wait in the stream."""
    if journal.layout_version is not None:
        version = journal.layout_version
        yield Finding(
            FindingKind.JOURNAL_FOREIGN, journal.name, f"layout {version}", {"layout_version": version}
        )
    elif journal.damage is not None:
        yield Finding(
            FindingKind.JOURNAL_UNREADABLE, journal.name, journal.damage, {"damage": journal.damage}
        )
    elif journal.held:
        yield from _in_held(journal, ledger, shipped=shipped, now=now)
    else:
        yield from _in_left(journal, ledger)


def _in_held(
    journal: JournalLook, ledger: Ledger, *, shipped: frozenset[RequestId], now: datetime
) -> Iterator[Finding]:
    late = [each.record for each in journal.settled if now - each.settled_at >= LATE]
    stuck = [each for each in ledger.lacking(late) if each.admission.request_id not in shipped]
    yield from _about(FindingKind.RECORDS_STUCK, journal.name, stuck)
    confirmed = [each for each in late if ledger.is_done_with(each) and not ledger.calls_lost(each)]
    yield from _about(FindingKind.RECORDS_UNCONFIRMED, journal.name, confirmed)
    yield from _called_lost(journal.name, late, ledger)


def _in_left(journal: JournalLook, ledger: Ledger) -> Iterator[Finding]:
    records = [each.record for each in journal.settled]
    yield from _about(FindingKind.JOURNAL_UNSHIPPED, journal.name, ledger.lacking(records))
    yield from _called_lost(journal.name, records, ledger)
    unclosed = [slot.admission for slot in journal.open if not ledger.has(slot.admission.request_id)]
    if unclosed:
        yield Finding(
            FindingKind.JOURNAL_UNCLOSED,
            journal.name,
            _count(len(unclosed), "request"),
            {"requests": len(unclosed)},
            tuple(admission.request_id for admission in unclosed),
        )


def in_kept_file(kept: KeptFile, ledger: Ledger, *, directory: Path) -> Iterator[Finding]:
    """Yield that a file was set aside, with what of it is not in the ledger."""
    lacking = ledger.lacking(kept.records)
    kind = FindingKind.RECORDS_DAMAGED if kept.is_damaged else FindingKind.RECORDS_REJECTED
    parts = [_without_row(lacking, kept.records)]
    if kept.unreadable:
        parts.append(f"{kept.unreadable:,} unreadable")
    # A file that is not wholly understood stays for people to look at, and so does a damaged journal.
    is_understood = not kept.is_damaged and not kept.unreadable
    yield Finding(
        kind,
        kept.name,
        ", ".join(parts),
        {**_figures(lacking), "readable": len(kept.records), "unreadable": kept.unreadable},
        _ids(lacking),
        Records(ledger.behind(kept.records), directory / kept.name if is_understood else None),
    )
    yield from _called_lost(kept.name, kept.records, ledger)


def in_stream(look: StreamLook, ledger: Ledger, *, now: datetime) -> Iterator[Finding]:
    """Yield what is wrong with the batches that wait, and with their number."""
    late = [batch for batch in look.batches if now - appended_at(batch.id) >= LATE]
    if late:
        records = [record for batch in late for record in records_in(batch.payload)[0]]
        age_s = int((now - min(appended_at(batch.id) for batch in late)).total_seconds())
        count = f"{_count(len(records), 'record')} in {_count(len(late), 'batch', 'batches')}"
        yield Finding(
            FindingKind.STREAM_WAITING,
            "stream",
            f"{count}, the oldest for {age_s:,} s",
            {**_figures(records), "batches": len(late), "oldest_s": age_s},
            _ids(records),
        )
        yield from _called_lost("stream", records, ledger)
    if look.state is not None and look.batches and look.state.counter != look.records:
        yield Finding(
            FindingKind.STREAM_MISCOUNTED,
            "stream",
            f"{look.state.counter:,} counted, {look.records:,} there",
            {"counted": look.state.counter, "records": look.records},
            matter=look,
        )


def in_dead_batch(batch: DeadBatch, ledger: Ledger) -> Iterator[Finding]:
    """Yield that a batch was set aside, with what of it is not in the ledger."""
    records, unreadable = records_in(batch.payload)
    lacking = ledger.lacking(records)
    where = f"dead batch {batch.id.decode()}"
    parts = [_without_row(lacking, records)]
    if unreadable:
        parts.append(f"{unreadable:,} unreadable")
    yield Finding(
        FindingKind.STREAM_DEAD,
        where,
        ", ".join([*parts, batch.reason]),
        {
            **_figures(lacking),
            "readable": len(records),
            "unreadable": unreadable,
            "holding": batch.holding,
            "range": batch.range,
            "reason": batch.reason,
        },
        _ids(lacking),
        Records(ledger.behind(records), None if unreadable else batch),
    )
    yield from _called_lost(where, records, ledger)


def _called_lost(where: str, records: Iterable[UsageRecord], ledger: Ledger) -> Iterator[Finding]:
    yield from _about(FindingKind.ROWS_LOST, where, [each for each in records if ledger.calls_lost(each)])


def _about(kind: FindingKind, where: str, records: Sequence[UsageRecord]) -> Iterator[Finding]:
    if records:
        figures = _figures(records)
        how_much = f"{_count(len(records), 'record')}, {_count(figures['tokens'], 'token')}"
        yield Finding(kind, where, how_much, {**figures}, _ids(records), Records(tuple(records)))


def _without_row(lacking: Sequence[UsageRecord], readable: Sequence[UsageRecord]) -> str:
    if not readable:
        return "no record that can be read"
    return f"{len(lacking):,} of {_count(len(readable), 'record')} without a row"


def _figures(records: Sequence[UsageRecord]) -> dict[str, int]:
    tokens = sum(record.settlement.tokens_in + record.settlement.tokens_out for record in records)
    return {"records": len(records), "tokens": tokens}


def _ids(records: Iterable[UsageRecord]) -> tuple[RequestId, ...]:
    return tuple(record.admission.request_id for record in records)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
