"""Any history of openings, endings, confirmations and deaths leaves every request accounted exactly once."""

import shutil
import tempfile
from pathlib import Path
from typing import Any
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.gateway.journal import layout
from app.gateway.journal.adoption import Adopter
from app.gateway.journal.entry import Entry, open_entry
from app.gateway.journal.journal import Journal
from app.gateway.journal.layout import JournalSize
from domain.errors import LedgerFull
from domain.usage import UsageOutcome, UsageRecord
from tests.support.counts import count
from tests.support.usage import admission, settlement

SIZE = JournalSize(slots=6, ring_bytes=7 * layout.FRAME_MAX)


class Histories(RuleBasedStateMachine):
    """The model is a dict: what each open request has released, and what each ended one was charged."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="nng-journal-"))

    @initialize()
    def start(self) -> None:
        self.journal = Journal.create(self.directory, SIZE)
        self.entries: dict[UUID, Entry] = {}
        self.released: dict[UUID, int] = {}
        self.expected: dict[UUID, tuple[UsageOutcome, int]] = {}
        self.confirmed: list[UsageRecord] = []

    @rule(padding=st.integers(0, 1200))
    def open(self, padding: int) -> None:
        request = admission(client_request_id="c" * padding)
        full = self.journal.is_full
        try:
            entry = open_entry(self.journal, request)
        except LedgerFull:
            assert full
            return
        assert not full
        self.entries[request.request_id] = entry
        self.released[request.request_id] = 0

    @rule(tokens=st.integers(0, 1000))
    def fill_up_and_settle_everything(self, tokens: int) -> None:
        """Keep the promise behind LedgerFull: what was admitted can always be settled."""
        while not self.journal.is_full:
            self.open(padding=1200)
        for request_id in list(self.entries):
            self._settle(request_id, tokens, attempts=150)

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), tokens=st.integers(1, 1000))
    def progress(self, data: st.DataObject, tokens: int) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.entries)))
        self.entries[request_id].progress(tokens)
        self.released[request_id] = tokens

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), tokens=st.integers(0, 1000), attempts=st.integers(1, 60))
    def settle(self, data: st.DataObject, tokens: int, attempts: int) -> None:
        self._settle(data.draw(st.sampled_from(sorted(self.entries))), tokens, attempts)

    def _settle(self, request_id: UUID, tokens: int, attempts: int) -> None:
        ending = settlement(tokens, attempted_backends=tuple(f"backend-{n:02d}" for n in range(attempts)))
        self.entries.pop(request_id).settle(ending)
        del self.released[request_id]
        self.expected[request_id] = (UsageOutcome.COMPLETED, tokens)

    @rule(limit=st.integers(1, 20))
    def confirm(self, limit: int) -> None:
        batch = self.journal.cut(self.journal.tail, self.journal.first_number, limit)
        if batch is not None:
            self.confirmed += map(layout.record_decoder.decode, self.journal.payloads(batch))
            self.journal.free_through(batch)

    @rule(half_written=st.binary(max_size=200))
    def die_and_be_adopted(self, half_written: bytes) -> None:
        at = self.journal.size.place(self.journal.head)
        path = self.journal.path
        self.journal.close()
        with path.open("r+b") as file:  # a record whose frame was never completed
            file.seek(at)
            file.write(half_written)
        for request_id, tokens in self.released.items():
            self.expected[request_id] = (UsageOutcome.LOST, tokens)
        self.entries, self.released = {}, {}
        [self.journal] = Adopter(self.directory).adopt_all()

    @invariant()
    def each_request_is_accounted_once(self) -> None:
        batch = self.journal.cut(self.journal.tail, self.journal.first_number, 1_000_000)
        waiting = [layout.record_decoder.decode(raw) for raw in self.journal.payloads(batch)] if batch else []
        found = [*self.confirmed, *waiting]

        assert len(found) == len(self.expected)
        assert self.expected == {
            record.admission.request_id: (record.settlement.outcome, record.settlement.tokens_out)
            for record in found
        }
        assert len(self.entries) == self.journal.open_count

    def teardown(self) -> None:
        self.journal.close()
        assert [self.journal.path] == list(self.directory.iterdir())  # nothing was found damaged
        shutil.rmtree(self.directory)


TestHistories: Any = Histories.TestCase
TestHistories.settings = settings(
    max_examples=count(25, 2_000), stateful_step_count=40, deadline=None, derandomize=count(1, 0) == 1
)
