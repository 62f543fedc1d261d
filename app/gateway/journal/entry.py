"""The record of one running request, in the slot its journal gave it. This is the hot path of accounting."""

import time

import msgspec

from app.gateway.journal import layout
from app.gateway.journal.journal import Journal
from domain.usage import Admission, Settlement

_SLOTS_WORD = layout.HEADER_BYTES // layout.WORD
_SLOT_WORDS = layout.SLOT_BYTES // layout.WORD
_CLOSED = memoryview(bytearray()).cast("Q")
_NS_PER_US = 1000


class EntryClosed(RuntimeError):  # noqa: N818 - reads as what happened
    """A settled request was touched again: a mistake in the caller."""


class Entry:
    """An open request; implements `domain.ports.OpenEntry`."""

    __slots__ = ("_admission", "_attempts", "_journal", "_opened_ns", "_released", "_slot", "_word", "_words")

    def __init__(self, journal: Journal, slot: int, admission: bytes) -> None:
        self._journal = journal
        self._words = journal.words
        self._slot = slot
        self._word = _SLOTS_WORD + slot * _SLOT_WORDS
        self._admission = admission
        self._attempts = b""
        self._released = False
        self._opened_ns = time.monotonic_ns()

    def progress(self, tokens_out: int) -> None:
        """Note the output tokens released so far, before the bytes that carry them are sent."""
        try:
            self._words[self._word + layout.PROGRESS_WORD] = tokens_out
        except IndexError:
            raise EntryClosed("progress after the end") from None
        if not self._released:
            self._released = True
            elapsed_us = (time.monotonic_ns() - self._opened_ns) // _NS_PER_US
            self._words[self._word + layout.FIRST_RELEASE_WORD] = elapsed_us + 1

    def sent_to(self, backend: str) -> None:
        """Note that an attempt at this backend begins, so that the record of a lost request can name it."""
        if self._words is _CLOSED:
            raise EntryClosed("attempt after the end")
        addition = b"\n" * bool(self._attempts) + backend.encode()
        if len(self._attempts) + len(addition) > layout.ATTEMPTS_MAX:
            return  # dozens of attempts: the first ones have to do
        self._journal.note_attempts(self._slot, len(self._attempts), addition)
        self._attempts += addition

    def settle(self, settlement: Settlement) -> None:
        """Close the record with its single ending.

        Raises
        ------
        EntryClosed
            It was settled before.
        """
        if self._words is _CLOSED:
            raise EntryClosed("settled twice")
        self._words = _CLOSED
        self._journal.settle(self._slot, encode_record(self._admission, settlement))


def open_entry(journal: Journal, admission: Admission) -> Entry:
    """Open the record of a request that is being let in.

    Raises
    ------
    LedgerFull
        The journal has no room; nothing was written.
    """
    payload = layout.encoder.encode(admission)
    if len(payload) > layout.PAYLOAD_MAX:
        payload = layout.encoder.encode(msgspec.structs.replace(admission, client_request_id=None))
    return Entry(journal, journal.take_slot(payload), payload)


def encode_record(admission: bytes, settlement: Settlement) -> bytes:
    """Return the encoded UsageRecord, shortened to RECORD_MAX by forgetting the earliest attempts.

    Raises
    ------
    ValueError
        It is too large even without attempts: some name in it has no bound.
    """
    payload = layout.encoder.encode(layout.SettledBody(msgspec.Raw(admission), settlement))
    while len(payload) > layout.RECORD_MAX:
        attempts = settlement.attempted_backends
        if not attempts:
            raise ValueError("a settlement without attempts is larger than a record may be")
        kept = attempts[(len(attempts) + 1) // 2 :]
        settlement = msgspec.structs.replace(settlement, attempted_backends=kept)
        payload = layout.encoder.encode(layout.SettledBody(msgspec.Raw(admission), settlement))
    return payload
