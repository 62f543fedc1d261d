import os
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from app.gateway.journal import layout
from app.gateway.journal.adoption import LEFTOVER_AGE_S, Adopter, stands_at
from app.gateway.journal.entry import open_entry
from app.gateway.journal.journal import Journal
from app.gateway.journal.layout import JournalSize
from domain.usage import UsageOutcome, UsageRecord
from tests.support.counts import count
from tests.support.usage import admission, settlement

SMALL = JournalSize(slots=8, ring_bytes=16 * layout.FRAME_MAX)
REPOSITORY = Path(__file__).parents[4]


class Holder:
    """A real process with a journal."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.settled: list[UUID] = []
        self.open: dict[UUID, int] = {}
        assert process.stdout is not None
        for line in process.stdout:
            match line.split():
                case ["settled", request_id]:
                    self.settled.append(UUID(request_id))
                case ["open", request_id, tokens]:
                    self.open[UUID(request_id)] = int(tokens)
                case _:
                    break

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)


@contextmanager
def holding(directory: Path, *, settled: int, opened: int) -> Iterator[Holder]:
    command = [
        sys.executable,
        "-m",
        "tests.support.journal_holder",
        str(directory),
        str(settled),
        str(opened),
    ]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        holder = Holder(process)
        try:
            yield holder
        finally:
            holder.kill()


def records(journal: Journal) -> list[UsageRecord]:
    batch = journal.cut(journal.tail, journal.first_number, 1_000_000)
    return [layout.record_decoder.decode(raw) for raw in journal.payloads(batch)] if batch else []


def adopt_one(directory: Path) -> Journal:
    [journal] = Adopter(directory).adopt_all()
    return journal


def leave_behind(directory: Path, *, settled: int = 0, opened: int = 0) -> tuple[Path, list[UUID]]:
    """Write a journal as its process would leave it; return its path and the settled requests."""
    journal = Journal.create(directory, SMALL)
    requests = [admission() for _ in range(settled + opened)]
    for request in requests[:settled]:
        open_entry(journal, request).settle(settlement())
    for request in requests[settled:]:
        open_entry(journal, request).progress(2)
    journal.close()
    return journal.path, [request.request_id for request in requests]


def test_a_killed_process_leaves_each_request_exactly_once(tmp_path: Path) -> None:
    with holding(tmp_path, settled=40, opened=9) as holder:
        holder.kill()

        journal = adopt_one(tmp_path)

    found = records(journal)
    lost = {r.admission.request_id: r.settlement for r in found if r.settlement.outcome is UsageOutcome.LOST}
    assert [*holder.settled, *holder.open] == [record.admission.request_id for record in found]
    assert holder.open == {request_id: ending.tokens_out for request_id, ending in lost.items()}
    assert {(7, True, "b", ("a", "b"))} == {
        (ending.tokens_in, ending.estimated, ending.backend, ending.attempted_backends)
        for ending in lost.values()
    }
    assert all(ending.durations.first_token_us is not None for ending in lost.values())
    journal.close()


def test_the_journal_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    with holding(tmp_path, settled=1, opened=1):
        assert Adopter(tmp_path).adopt_all() == []


def test_of_many_adopters_exactly_one_gets_a_journal(tmp_path: Path) -> None:
    for _ in range(count(20, 1_000)):
        leave_behind(tmp_path, settled=3, opened=2)
        start = threading.Barrier(6)
        adopted: list[int] = []

        def race(start: threading.Barrier = start, adopted: list[int] = adopted) -> None:
            start.wait()
            for journal in Adopter(tmp_path).adopt_all():
                adopted.append(len(records(journal)))
                journal.discard()

        racers = [threading.Thread(target=race) for _ in range(6)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()

        assert adopted == [5]


def test_a_file_deleted_before_it_was_locked_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.touch()
    fd = os.open(path, os.O_RDWR)
    current = stands_at(path, fd)
    path.unlink()
    deleted = stands_at(path, fd)
    path.touch()
    replaced = stands_at(path, fd)
    os.close(fd)

    assert (current, deleted, replaced) == (True, False, False)


def test_adopting_again_after_the_adopter_died_changes_nothing(tmp_path: Path) -> None:
    leave_behind(tmp_path, settled=3, opened=2)
    first = adopt_one(tmp_path)
    expected = records(first)
    first.close()

    second = adopt_one(tmp_path)

    assert expected == records(second)
    second.close()


def test_a_request_killed_between_its_record_and_its_slot_counts_once(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, SMALL)
    request = admission()
    open_entry(journal, request)
    journal.append(layout.encoder.encode(UsageRecord(request, settlement())))
    journal.close()

    adopted = adopt_one(tmp_path)

    assert [record.settlement.outcome for record in records(adopted)] == [UsageOutcome.COMPLETED]
    assert adopted.open_count == 0
    adopted.close()


def test_confirmed_records_are_not_found_again(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, SMALL)
    for _ in range(5):
        open_entry(journal, admission()).settle(settlement())
        batch = journal.cut(journal.tail, journal.first_number, 1)
        assert batch is not None
        journal.free_through(batch)
    open_entry(journal, admission()).settle(settlement(77))
    journal.close()

    adopted = adopt_one(tmp_path)

    assert [record.settlement.tokens_out for record in records(adopted)] == [77]
    assert adopted.first_number == 6
    adopted.close()


def test_records_of_the_lap_before_are_not_taken_for_new_ones(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, SMALL)
    payload = bytes(1024 - layout.FRAME.size)  # the frames of all laps stand at the same places
    while journal.head < SMALL.ring_bytes + 5 * 1024:
        journal.append(payload)
        batch = journal.cut(journal.tail, journal.first_number, 1)
        assert batch is not None
        journal.free_through(batch)
    journal.close()

    adopted = adopt_one(tmp_path)

    assert (adopted.head, adopted.next_number) == (journal.head, journal.next_number)
    adopted.close()


def test_a_spoiled_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, SMALL)
    for _ in range(3):
        open_entry(journal, admission()).settle(settlement())
    for _ in range(2):
        batch = journal.cut(journal.tail, journal.first_number, 1)
        assert batch is not None
        journal.free_through(batch)
    journal.close()
    spoil(journal.path, layout.CHECKPOINTS_AT[0])

    adopted = adopt_one(tmp_path)

    assert adopted.first_number == 2
    adopted.close()


def spoil(path: Path, at: int, *, length: int = 8) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        found = file.read(length)
        file.seek(at)
        file.write(bytes(byte ^ 0xFF for byte in found))


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        pytest.param(0, {0, 1, 2, 3, 4}, id="header"),
        pytest.param(SMALL.ring_at + layout.FRAME.size + 30, {1, 2, 3, 4}, id="first record"),
        pytest.param(SMALL.ring_at + 4, {1, 2, 3, 4}, id="a record's length"),
        pytest.param(layout.HEADER_BYTES + 7 * layout.SLOT_BYTES, {0, 1, 2, 3, 4}, id="free slot"),
        pytest.param(layout.HEADER_BYTES + layout.PAYLOAD_AT + 30, {0, 1, 2, 4}, id="open slot"),
    ],
)
def test_what_is_readable_of_a_damaged_journal_is_saved(tmp_path: Path, at: int, expected: set[int]) -> None:
    path, requests = leave_behind(tmp_path, settled=3, opened=2)
    spoil(path, at)

    with capture_logs() as logs:
        journal = adopt_one(tmp_path)

    assert {requests[number] for number in expected} == {
        record.admission.request_id for record in records(journal)
    }
    assert [log["event"] for log in logs if log["log_level"] == "error"] == ["journal_damaged"]
    assert path.with_name(f"{path.name}.damaged").exists()
    assert not path.exists()
    journal.close()


@pytest.mark.parametrize("length", [0, 10, 5000, SMALL.ring_at + 2000])
def test_a_truncated_journal_never_stops_its_adopter(tmp_path: Path, length: int) -> None:
    path, _ = leave_behind(tmp_path, settled=20, opened=2)
    os.truncate(path, length)

    adopted = Adopter(tmp_path).adopt_all()

    assert path.with_name(f"{path.name}.damaged").exists()
    for journal in adopted:
        assert records(journal)
        journal.close()


def test_a_journal_of_an_unknown_layout_waits_for_who_knows_it(tmp_path: Path) -> None:
    path, _ = leave_behind(tmp_path, settled=1)
    content = bytearray(layout.pack_header(SMALL, UUID(path.name)))
    newer = layout.LAYOUT_VERSION + 1
    fields = (layout.MAGIC, newer, SMALL.slots, SMALL.ring_bytes, UUID(path.name).bytes)
    checksum = zlib.crc32(layout.HEADER.pack(*fields, 0))
    content[:] = layout.HEADER.pack(*fields, checksum)
    with path.open("r+b") as file:
        file.write(content)
    adopter = Adopter(tmp_path)

    with capture_logs() as logs:
        assert adopter.adopt_all() + adopter.adopt_all() == []

    assert path.exists()
    assert [log["event"] for log in logs] == ["journal_layout_unknown"]


def test_old_leftovers_of_a_start_are_removed(tmp_path: Path) -> None:
    old, young = tmp_path / "old.tmp", tmp_path / "young.tmp"
    old.touch()
    young.touch()
    long_ago = datetime.now(UTC).timestamp() - LEFTOVER_AGE_S - 1
    os.utime(old, (long_ago, long_ago))

    Adopter(tmp_path).adopt_all()

    assert [young] == list(tmp_path.iterdir())


def test_files_that_are_no_journals_are_left_alone(tmp_path: Path) -> None:
    note = tmp_path / "README"
    note.touch()

    assert Adopter(tmp_path).adopt_all() == []

    assert note.exists()
