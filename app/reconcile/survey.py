"""What differs: found in two looks at a moving target, a little apart, and the same way in both."""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from app.reconcile.findings import Finding, FindingKind, found_again
from app.reconcile.limits import in_counters, in_reservations
from app.reconcile.records import in_dead_batch, in_journal, in_kept_file, in_stream, records_in
from app.reconcile.seen import Seen, Stores, see
from db.usage_look import SumDifference, SumUnit

AGAIN_AFTER_S: Final = 2.0
ADOPTED_WITHIN_S: Final = 6.0
"""App processes look for journals of dead ones every 5 s."""

_OF_DEAD_PROCESSES: Final = frozenset(
    {
        FindingKind.JOURNAL_UNSHIPPED,
        FindingKind.JOURNAL_UNCLOSED,
        FindingKind.JOURNAL_UNREADABLE,
        FindingKind.JOURNAL_LEFTOVER,
        FindingKind.RESERVED_BY_DEAD,
    }
)


class Coverage(msgspec.Struct, frozen=True):
    """What was compared.

    Attributes
    ----------
    journals_held, journals_left
        Journals of this machine, by whether a process holds them.
    processes
        App processes that live, on any machine.
    open_requests
        In this machine's journals.
    records
        Settled records on their way to the ledger.
    tenants
        Those whose counters were compared.
    """

    since: datetime
    now: datetime
    directory: str
    journals_held: int
    journals_left: int
    processes: int
    open_requests: int
    records: int
    tenants: int


class Survey(msgspec.Struct, frozen=True):
    """What was compared and what differs."""

    coverage: Coverage
    findings: tuple[Finding, ...]


async def survey(stores: Stores, *, since: datetime, pause: Callable[[float], Awaitable[None]]) -> Survey:
    """Look, look again after a pause if something differs, and keep what differs both times.

    Raises
    ------
    JournalsUnreadable, RedisError, OSError, SQLAlchemyError
        The journals or a store cannot be read.
    """
    seen = await see(stores, since=since)
    findings = tuple(differences(seen, directory=stores.directory))
    if findings:
        takes_longer = any(each.kind in _OF_DEAD_PROCESSES for each in findings)
        await pause(ADOPTED_WITHIN_S if takes_longer else AGAIN_AFTER_S)
        seen = await see(stores, since=since)
        findings = tuple(_in_both(findings, differences(seen, directory=stores.directory)))
    return Survey(_coverage(seen, since=since, directory=stores.directory), findings)


def differences(seen: Seen, *, directory: Path) -> Iterator[Finding]:
    """Yield everything that differs in one look."""
    shipped = frozenset(
        record.admission.request_id
        for batch in seen.stream.batches
        for record in records_in(batch.payload)[0]
    )
    for journal in seen.directory.journals:
        yield from in_journal(journal, seen.ledger, shipped=shipped, now=seen.now)
    for kept in seen.directory.kept:
        yield from in_kept_file(kept, seen.ledger, directory=directory)
    for name in seen.directory.leftovers:
        yield Finding(FindingKind.JOURNAL_LEFTOVER, name, "no record", {}, matter=directory / name)
    yield from in_stream(seen.stream, seen.ledger, now=seen.now)
    for batch in seen.dead:
        yield from in_dead_batch(batch, seen.ledger)
    for difference in seen.sums:
        yield _of_sums(difference)
    known = {
        *(record.admission.request_id for record in seen.records()),
        *(slot.admission.request_id for journal in seen.directory.journals for slot in journal.open),
    }
    for tenant in seen.tenants:
        yield from in_counters(tenant)
        yield from in_reservations(tenant, live=seen.live, known=known)


def _of_sums(found: SumDifference) -> Finding:
    is_hour = found.unit is SumUnit.HOUR
    source = "its rows" if is_hour else "its hours"
    if (found.requests, found.tokens) == (found.true_requests, found.true_tokens):
        how_much = f"{source} say another tenant, key, model, backend, outcome or duration"
    else:
        how_much = (
            f"{found.requests:,} requests, {found.tokens:,} tokens;"
            f" {source} say {found.true_requests:,} and {found.true_tokens:,}"
        )
    figures: dict[str, int | str] = {
        "requests": found.requests,
        "tokens": found.tokens,
        "true_requests": found.true_requests,
        "true_tokens": found.true_tokens,
    }
    where = f"hour {found.first:%Y-%m-%d %H:%M} UTC" if is_hour else f"day {found.first:%Y-%m-%d} UTC"
    return Finding(FindingKind.SUMS_DIFFER, where, how_much, figures, matter=found)


def _in_both(earlier: Iterable[Finding], later: Iterable[Finding]) -> Iterator[Finding]:
    before = {(each.kind, each.where): each for each in earlier}
    for each in later:
        first = before.get((each.kind, each.where))
        again = None if first is None else found_again(first, each)
        if again is not None:
            yield again


def _coverage(seen: Seen, *, since: datetime, directory: Path) -> Coverage:
    journals = seen.directory.journals
    return Coverage(
        since=since,
        now=seen.now,
        directory=str(directory),
        journals_held=sum(journal.held for journal in journals),
        journals_left=sum(not journal.held for journal in journals),
        processes=len(seen.live),
        open_requests=sum(len(journal.open) for journal in journals),
        records=len({record.admission.request_id for record in seen.records()}),
        tenants=len(seen.tenants),
    )
