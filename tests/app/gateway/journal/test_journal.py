import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from app.gateway.journal import layout
from app.gateway.journal.entry import EntryClosed, open_entry
from app.gateway.journal.journal import Batch, Journal
from app.gateway.journal.layout import JournalSize
from domain.errors import LedgerFull
from domain.usage import UsageRecord
from tests.support.usage import admission, settlement

SMALL = JournalSize(slots=8, ring_bytes=16 * layout.FRAME_MAX)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal.create(tmp_path / "journals", SMALL)
    yield journal
    journal.close()


def waiting(journal: Journal) -> Batch | None:
    return journal.cut(journal.tail, journal.first_number, 1_000_000)


def records(journal: Journal) -> list[UsageRecord]:
    batch = waiting(journal)
    return [layout.record_decoder.decode(raw) for raw in journal.payloads(batch)] if batch else []


def test_a_settled_request_is_one_record(journal: Journal) -> None:
    request, ending = admission(client_request_id="c-1"), settlement()

    open_entry(journal, request).settle(ending)

    assert [UsageRecord(request, ending)] == records(journal)
    assert journal.open_count == 0


def test_an_open_request_keeps_its_progress_and_attempts(journal: Journal) -> None:
    request = admission()
    entry = open_entry(journal, request)

    entry.sent_to("first")
    entry.sent_to("second")
    entry.progress(3)
    entry.progress(4)

    [(_, slot)] = journal.open_slots()
    assert (request, 4, ("first", "second")) == (slot.admission, slot.tokens_out, slot.attempted_backends)
    assert slot.first_release_us is not None


def test_a_slot_starts_without_its_former_tenants_progress(journal: Journal) -> None:
    first = open_entry(journal, admission())
    first.sent_to("a")
    first.progress(99)
    first.settle(settlement())

    open_entry(journal, admission())

    [(_, slot)] = journal.open_slots()
    assert (slot.tokens_out, slot.first_release_us, slot.attempted_backends) == (0, None, ())


def test_the_ring_is_used_again_and_again(journal: Journal) -> None:
    laps = 5
    seen = []
    while journal.head < laps * SMALL.ring_bytes:
        request = admission(client_request_id="x" * (journal.next_number * 37 % 900))
        open_entry(journal, request).settle(settlement())
        if journal.next_number % 7 == 0:
            seen += [record.admission.request_id == request.request_id for record in records(journal)[-1:]]
            batch = waiting(journal)
            assert batch is not None
            journal.free_through(batch)

    assert seen
    assert all(seen)
    assert not any(journal.open_slots())


def test_no_slot_left_refuses_and_a_settled_request_makes_room(journal: Journal) -> None:
    entries = [open_entry(journal, admission()) for _ in range(SMALL.slots)]
    with pytest.raises(LedgerFull):
        open_entry(journal, admission())

    entries[3].settle(settlement())

    open_entry(journal, admission())


def test_a_full_ring_still_settles_everything_it_admitted(journal: Journal) -> None:
    large = settlement(attempted_backends=("b" * 60,) * 60)
    requests = []
    while journal.ring_bytes_free >= 3 * layout.FRAME_MAX:
        requests.append(admission())
        open_entry(journal, requests[-1]).settle(large)
    entries = []
    while not journal.is_full:
        requests.append(admission())
        entries.append(open_entry(journal, requests[-1]))

    for entry in entries:
        entry.settle(large)

    assert len(entries) > 1
    assert [record.admission for record in records(journal)] == requests


def test_confirmed_records_make_room_in_a_full_ring(journal: Journal) -> None:
    while not journal.is_full:
        open_entry(journal, admission()).settle(settlement())
    batch = journal.cut(journal.tail, journal.first_number, 20)
    assert batch is not None

    journal.free_through(batch)

    assert journal.first_number == 21
    open_entry(journal, admission())


def test_settling_twice_is_an_error_and_changes_nothing(journal: Journal) -> None:
    entry = open_entry(journal, admission())
    entry.settle(settlement())

    with pytest.raises(EntryClosed):
        entry.settle(settlement())

    assert len(records(journal)) == 1


def test_progress_after_the_end_cannot_reach_the_slots_next_request(journal: Journal) -> None:
    entry = open_entry(journal, admission())
    entry.settle(settlement())
    open_entry(journal, admission())

    with pytest.raises(EntryClosed):
        entry.progress(5)
    with pytest.raises(EntryClosed):
        entry.sent_to("a")

    assert journal.open_slots()[0][1].tokens_out == 0


def test_an_endless_list_of_attempts_loses_its_oldest_names(journal: Journal) -> None:
    names = tuple(f"backend-{number:04d}" for number in range(500))

    open_entry(journal, admission()).settle(settlement(attempted_backends=names))

    [record] = records(journal)
    kept = record.settlement.attempted_backends
    assert names[-len(kept) :] == kept
    assert names[-1] == record.settlement.backend


def test_attempts_beyond_the_slots_room_are_not_noted(journal: Journal) -> None:
    entry = open_entry(journal, admission())

    for number in range(40):
        entry.sent_to(f"backend-{number:04d}")

    [(_, slot)] = journal.open_slots()
    assert slot.attempted_backends == tuple(
        f"backend-{number:04d}" for number in range(len(slot.attempted_backends))
    )


def test_a_client_request_id_without_bound_is_dropped(journal: Journal) -> None:
    open_entry(journal, admission(client_request_id="x" * 5000)).settle(settlement())

    assert [record.admission.client_request_id for record in records(journal)] == [None]


def test_an_admission_too_large_for_a_slot_is_refused(journal: Journal) -> None:
    with pytest.raises(LedgerFull):
        open_entry(journal, admission(model="m" * 5000))

    assert journal.open_count == 0


def test_the_age_of_the_oldest_record_is_known(journal: Journal) -> None:
    before = time.time_ns() // 1000

    open_entry(journal, admission()).settle(settlement())

    assert before <= (journal.oldest_settled_us or 0) <= time.time_ns() // 1000


def test_without_records_there_is_no_oldest(journal: Journal) -> None:
    open_entry(journal, admission())

    assert journal.oldest_settled_us is None


def test_a_directory_without_room_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"large|space"):
        Journal.create(tmp_path, JournalSize(slots=1, ring_bytes=2**60))

    assert list(tmp_path.iterdir()) == []


def test_sync_and_close_may_be_called_again(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, SMALL)
    open_entry(journal, admission())
    journal.sync()

    journal.close()
    journal.close()

    journal.sync()


@pytest.mark.parametrize("size", [(0, 65_536), (1, 4096), (1, 65_537)])
def test_an_unusable_size_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="journal size"):
        JournalSize(slots=size[0], ring_bytes=size[1])


def test_any_number_of_bytes_makes_a_ring_of_whole_pages() -> None:
    assert JournalSize.for_ring(1_048_576 + 4095).ring_bytes == 1_048_576


def test_records_are_encoded_as_the_struct_they_are(journal: Journal) -> None:
    request, ending = admission(), settlement()
    open_entry(journal, request).settle(ending)
    batch = waiting(journal)
    assert batch is not None

    assert [msgspec.msgpack.Encoder(uuid_format="bytes").encode(UsageRecord(request, ending))] == (
        journal.payloads(batch)
    )
