"""Looking at journals from outside: nothing is disturbed, and nothing half-written is taken for damage."""

import threading
from pathlib import Path

import pytest

from app.gateway.journal import layout
from app.gateway.journal.adoption import Adopter
from app.gateway.journal.entry import open_entry
from app.gateway.journal.inspection import DirectoryLook, JournalLook, look
from app.gateway.journal.journal import Journal
from app.gateway.journal.layout import JournalSize
from tests.app.gateway.journal.test_adoption import holding, leave_behind
from tests.support.counts import count
from tests.support.usage import admission, settlement

SMALL = JournalSize(slots=8, ring_bytes=16 * layout.FRAME_MAX)


def only(directory: Path) -> JournalLook:
    (journal,) = look(directory).journals
    return journal


def numbers(journal: JournalLook) -> list[int]:
    return [each.record.settlement.tokens_out for each in journal.settled]


def test_a_directory_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert look(tmp_path / "none") == DirectoryLook()


def test_the_journal_of_a_living_process_is_read_and_stays_its_own(tmp_path: Path) -> None:
    with holding(tmp_path, settled=5, opened=2) as holder:
        found = only(tmp_path)

        assert Adopter(tmp_path).adopt_all() == []

    assert found.held
    assert [each.record.admission.request_id for each in found.settled] == holder.settled
    assert {slot.admission.request_id: slot.tokens_out for slot in found.open} == holder.open


def test_a_left_journal_can_be_adopted_after_a_look(tmp_path: Path) -> None:
    path, _ = leave_behind(tmp_path, settled=2, opened=1)
    before = path.read_bytes()
    found = only(tmp_path)

    assert (found.held, len(found.settled), len(found.open)) == (False, 2, 1)
    assert path.read_bytes() == before
    (journal,) = Adopter(tmp_path).adopt_all()
    journal.close()


def test_what_is_confirmed_is_not_shown(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, SMALL)
    for tokens in range(4):
        open_entry(journal, admission()).settle(settlement(tokens))
    batch = journal.cut(journal.tail, journal.first_number, 3)
    assert batch is not None
    journal.free_through(batch)

    assert numbers(only(tmp_path)) == [3]
    journal.close()


def test_a_request_between_its_two_steps_is_settled_and_not_open(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, SMALL)
    request = admission()
    entry = open_entry(journal, request)
    slots = bytes(journal.words)[: SMALL.ring_at]
    entry.settle(settlement())
    journal.close()
    with journal.path.open("r+b") as file:
        file.seek(SMALL.slot_at(0))
        file.write(slots[SMALL.slot_at(0) : SMALL.slot_at(1)])
    found = only(tmp_path)

    assert (len(found.settled), found.open) == (1, ())


@pytest.mark.parametrize("held", [True, False])
def test_only_what_nobody_writes_can_be_damaged(tmp_path: Path, *, held: bool) -> None:
    journal = Journal.create(tmp_path, SMALL)
    open_entry(journal, admission())
    open_entry(journal, admission()).settle(settlement())
    with journal.path.open("r+b") as file:
        file.seek(SMALL.slot_at(0) + layout.PAYLOAD_AT)
        file.write(b"torn")
    if not held:
        journal.close()
    found = only(tmp_path)

    assert (found.held, found.damage) == (held, None if held else "slot")
    assert len(found.settled) == held
    journal.close()


def test_a_look_at_a_busy_journal_misses_no_record(tmp_path: Path) -> None:
    # So large that the writer comes round once in many looks.
    journal = Journal.create(tmp_path, JournalSize(slots=8, ring_bytes=1 << 20))
    over, begun = threading.Event(), threading.Event()

    def write() -> None:
        tokens = 0
        while not over.is_set():
            open_entry(journal, admission()).settle(settlement(tokens))
            tokens += 1
            begun.set()
            if journal.next_number - journal.first_number > 20:
                batch = journal.cut(journal.tail, journal.first_number, 10)
                assert batch is not None
                journal.free_through(batch)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert begun.wait(10)
        for _ in range(count(30, 1_000)):
            known = journal.next_number - 1
            found = numbers(only(tmp_path))
            assert found == list(range(found[0], found[0] + len(found)))
            assert found[-1] >= known - 1
    finally:
        over.set()
        writer.join()
        journal.close()
