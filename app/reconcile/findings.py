"""What a comparison can find, what each finding means to an operator, and what can be done about it."""

from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from db.redis.usage_stream_look import DeadBatch, StreamLook
from db.usage_look import SumDifference
from domain.usage import UsageRecord
from domain.values import RequestId, TenantId


class FindingKind(StrEnum):
    """The names stay: scripts read them."""

    JOURNAL_UNSHIPPED = "journal-unshipped"
    JOURNAL_UNCLOSED = "journal-unclosed"
    JOURNAL_UNREADABLE = "journal-unreadable"
    JOURNAL_FOREIGN = "journal-foreign"
    JOURNAL_LEFTOVER = "journal-leftover"
    RECORDS_STUCK = "records-stuck"
    RECORDS_UNCONFIRMED = "records-unconfirmed"
    RECORDS_REJECTED = "records-rejected"
    RECORDS_DAMAGED = "records-damaged"
    STREAM_WAITING = "stream-waiting"
    STREAM_DEAD = "stream-dead"
    STREAM_MISCOUNTED = "stream-miscounted"
    ROWS_LOST = "rows-lost"
    SUMS_DIFFER = "sums-differ"
    TOKENS_DIFFER = "tokens-differ"
    RUNNING_DIFFERS = "running-differs"
    RESERVED_BY_DEAD = "reserved-by-dead"
    RESERVED_AFTER_END = "reserved-after-end"
    REQUEST_UNRECORDED = "request-unrecorded"


class Explanation(NamedTuple):
    """Sentences for an operator. `repair` is None where nothing can be closed from here; `advice` always holds."""

    means: str
    repair: str | None
    advice: str


EXPLANATIONS: Final = {
    FindingKind.JOURNAL_UNSHIPPED: Explanation(
        "A process died and left settled records that are not in the ledger. Their requests are on no bill yet.",
        "writes them into the ledger",
        "An app process that runs on this machine adopts the journal within 5 s and does the same.",
    ),
    FindingKind.JOURNAL_UNCLOSED: Explanation(
        "A process died with requests open. They get their rows, as `lost`, when its journal is adopted.",
        None,
        "Start an app process on this machine; it adopts the journal within 5 s. If one runs, look for"
        " journal_adoption_failed in its log: the file may belong to another user.",
    ),
    FindingKind.JOURNAL_UNREADABLE: Explanation(
        "A journal that nobody holds contradicts itself, most likely after a power loss or a full disk.",
        None,
        "An app process that runs on this machine saves what can be read within 5 s and keeps the file as .damaged.",
    ),
    FindingKind.JOURNAL_FOREIGN: Explanation(
        "A journal was written by another release, in a layout that this one does not read.",
        None,
        "Run that release on this directory once, so that it ships what the journal holds.",
    ),
    FindingKind.JOURNAL_LEFTOVER: Explanation(
        "A process died while it created its journal. No request was recorded in the file.",
        "deletes it",
        "An app process that runs on this machine deletes it by itself.",
    ),
    FindingKind.RECORDS_STUCK: Explanation(
        "A process that lives holds settled records which are neither in the ledger nor on their way there."
        " They are safe in its journal, but on no bill yet.",
        None,
        "Look for usage_shipping_paused in its log: it cannot reach Redis, or too many records wait in the stream.",
    ),
    FindingKind.RECORDS_UNCONFIRMED: Explanation(
        "A process still holds records that have been in the ledger for a while: it has not heard of it."
        " Nothing is missing and nothing counts twice, but its journal may fill up.",
        None,
        "Look for usage_shipping_paused in its log; if it says nothing, restart the process.",
    ),
    FindingKind.RECORDS_REJECTED: Explanation(
        "The worker could not write these records, so their holder kept them in a file. They are on no bill"
        " unless they were written since.",
        "writes those that the database takes, and deletes the file once all of its records are in the ledger",
        "What the database refuses stays in the file; usage_batch_dead in the worker's log says why.",
    ),
    FindingKind.RECORDS_DAMAGED: Explanation(
        "A damaged journal was kept after everything readable had been taken out of it.",
        "writes those of its records that have no row",
        "Delete the file when you have looked at it: it is kept for you alone.",
    ),
    FindingKind.STREAM_WAITING: Explanation(
        "Records have waited in Redis for longer than it takes to write them. They are on no bill yet.",
        None,
        "Is the worker running, and does it reach Postgres? If not, its log has job_failed for usage.account.",
    ),
    FindingKind.STREAM_DEAD: Explanation(
        "The worker set a batch aside in Redis because something in it could not become a row."
        " Its holder keeps the same records in a .rejected file.",
        "writes the records that the database takes, and drops the batch once all of them are in the ledger",
        "What the database refuses stays where it is; the reason stands beside it.",
    ),
    FindingKind.STREAM_MISCOUNTED: Explanation(
        "The number of records that wait in Redis is not what is counted there. Too high, shipping pauses early;"
        " too low, the stream may outgrow GATEWAY_USAGE_STREAM_MAX_RECORDS.",
        "sets it to what waits",
        "It starts anew by itself as soon as the stream is empty.",
    ),
    FindingKind.ROWS_LOST: Explanation(
        "A row says that its request was lost, but its real ending is known: the bill shows an estimate.",
        "writes the ending over it",
        "A record on its way does the same when it arrives.",
    ),
    FindingKind.SUMS_DIFFER: Explanation(
        "The sums that reports are read from are not those of their rows. The rows are the truth.",
        "has them made anew; reports read the rows until the worker has done it",
        "`usage rebuild --since ...` makes them anew at once. Of a month whose rows were dropped nothing can be.",
    ),
    FindingKind.TOKENS_DIFFER: Explanation(
        "Redis counts other tokens for a quota than requests took. Too many, requests are refused early;"
        " too few, more is let in than the quota allows. Bills do not depend on it.",
        "has the next request count anew, from the ledger and from what every process holds",
        "A journal on another machine that is not shipped explains a surplus; look there first.",
    ),
    FindingKind.RUNNING_DIFFERS: Explanation(
        "Redis counts other requests as running than hold a reservation, so concurrency is judged wrongly.",
        "has the next request count anew what runs",
        "It does not go away by itself.",
    ),
    FindingKind.RESERVED_BY_DEAD: Explanation(
        "Requests of a process that is gone still hold their place and their tokens.",
        "gives them back",
        "The worker does so every few seconds: is it running?",
    ),
    FindingKind.RESERVED_AFTER_END: Explanation(
        "Requests that are in the ledger still hold what they reserved: their process could not tell Redis.",
        "settles them with what their rows say",
        "A process that lives repeats it until Redis answers.",
    ),
    FindingKind.REQUEST_UNRECORDED: Explanation(
        "A process that is gone had let requests in of which nothing is known here: neither a row nor a journal.",
        None,
        "Start an app process on the machine where it ran, which adopts its journal. If that volume is lost, so is"
        " the usage. A request that died before it reached a backend leaves no record either; it is forgotten"
        " after two days.",
    ),
}


class Gap(msgspec.Struct, frozen=True):
    """By how much a counter is off: at least `least` and at most `most`; below zero it counts too little."""

    least: int
    most: int

    @property
    def is_certain(self) -> bool:
        """Whether it is off at all."""
        return self.least > 0 or self.most < 0

    def and_also(self, other: "Gap") -> "Gap | None":
        """Return what fits both, None if nothing does: then they were not off in the same way."""
        least, most = max(self.least, other.least), min(self.most, other.most)
        return Gap(least, most) if least <= most else None

    def __str__(self) -> str:
        sign = "too many" if self.least > 0 else "too few"
        least, most = sorted((abs(self.least), abs(self.most)))
        return f"{least:,} {sign}" if least == most else f"{least:,} to {most:,} {sign}"


class Records(msgspec.Struct, frozen=True):
    """Settled records that writing would put right, and the file or the dead batch that is done with once they are."""

    records: tuple[UsageRecord, ...]
    holder: Path | DeadBatch | None = None


class Reservations(msgspec.Struct, frozen=True):
    """Reservations of one tenant, each with the tokens it should be settled with."""

    tenant_id: TenantId
    tokens: dict[RequestId, int]


class Tenant(msgspec.Struct, frozen=True):
    """A tenant whose counters are off."""

    tenant_id: TenantId


Matter = Records | StreamLook | SumDifference | Reservations | Tenant | Path | None


class Finding(msgspec.Struct, frozen=True):
    """One difference.

    Attributes
    ----------
    where
        A file, a tenant, an hour.
    how_much
        For people.
    figures
        The same for machines, by names that stay.
    requests
        Which requests it is about, where that is known.
    matter
        What a repair works with.
    gap
        Of counters only.
    """

    kind: FindingKind
    where: str
    how_much: str
    figures: dict[str, int | str]
    requests: tuple[RequestId, ...] = ()
    matter: Matter = None
    gap: Gap | None = None

    @property
    def explanation(self) -> Explanation:
        """What it means."""
        return EXPLANATIONS[self.kind]


def found_again(earlier: Finding, later: Finding) -> Finding | None:
    """Return the later finding if it differs in the same way as the earlier one, else None."""
    if (earlier.kind, earlier.where) != (later.kind, later.where):
        return None
    if earlier.gap is None or later.gap is None:
        return later
    gap = earlier.gap.and_also(later.gap)
    if gap is None:
        return None
    figures = later.figures | {"least": gap.least, "most": gap.most}
    return msgspec.structs.replace(later, gap=gap, how_much=str(gap), figures=figures)
