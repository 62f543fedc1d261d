"""Differences between journals and the ledger: each is made on a real file and real stores, found, closed, and gone."""

import os
import time
import zlib
from pathlib import Path

from app.gateway.journal import layout
from app.gateway.journal.adoption import LEFTOVER_AGE_S, Adopter
from app.gateway.journal.journal import Journal
from app.reconcile.findings import FindingKind
from domain.usage import UsageOutcome
from tests.app.reconcile.conftest import TOKENS, World, encoded, settle_earlier

LATE_S = 60.0
HOLDING = "01900000-0000-7000-8000-000000000000.00000001"


def left(journal: Journal) -> Path:
    """Let go of a journal, as the death of its process does."""
    journal.close()
    return journal.path


async def test_nothing_differs_where_nothing_happened(world: World) -> None:
    assert await world.found() == []


async def test_a_record_that_was_just_settled_is_on_its_way(world: World) -> None:
    journal = world.journal(world.record())

    assert await world.found() == []
    journal.close()


async def test_a_request_that_runs_is_no_difference(world: World) -> None:
    journal = world.journal(opened=(world.admission(),))

    assert await world.found() == []
    journal.close()


async def test_records_left_by_a_dead_process_are_written(world: World) -> None:
    records = [world.record(), world.record()]
    path = left(world.journal(*records))
    (finding,) = await world.found()

    assert (finding.kind, finding.where) == (FindingKind.JOURNAL_UNSHIPPED, path.name)
    assert finding.figures == {"records": 2, "tokens": 2 * TOKENS}
    assert set(finding.requests) == {record.admission.request_id for record in records}
    await world.repair()
    assert await world.outcomes() == {record.admission.request_id: "completed" for record in records}
    assert await world.audited() == ["usage.insert"]
    assert await world.found() == []


async def test_a_left_journal_whose_records_are_all_accounted_is_no_difference(world: World) -> None:
    record = world.record()
    await world.rows.insert_batch([record])
    left(world.journal(record))

    assert await world.found() == []


async def test_repairing_twice_is_as_good_as_once(world: World) -> None:
    left(world.journal(world.record()))
    await world.repair()
    before = (await world.outcomes(), await world.audited())
    await world.repair()

    assert (await world.outcomes(), await world.audited()) == before


async def test_requests_left_open_are_named_and_left_to_an_adopter(world: World) -> None:
    left(world.journal(opened=(world.admission(),)))

    assert await world.kinds() == [FindingKind.JOURNAL_UNCLOSED]
    assert await world.repair() == [None]
    assert await world.kinds() == [FindingKind.JOURNAL_UNCLOSED]


async def test_records_that_a_living_process_cannot_ship_are_named(world: World) -> None:
    journal = world.journal(world.record())
    settle_earlier(journal.path, LATE_S)

    assert await world.kinds() == [FindingKind.RECORDS_STUCK]
    journal.close()


async def test_records_that_are_in_the_ledger_but_not_confirmed_are_named(world: World) -> None:
    record = world.record()
    await world.rows.insert_batch([record])
    journal = world.journal(record)
    settle_earlier(journal.path, LATE_S)

    assert await world.kinds() == [FindingKind.RECORDS_UNCONFIRMED]
    journal.close()


async def test_a_row_called_lost_gets_the_ending_that_is_known(world: World) -> None:
    lost = world.record(outcome=UsageOutcome.LOST)
    await world.rows.insert_batch([lost])
    left(world.journal(world.record(lost.admission.request_id)))
    assert await world.kinds() == [FindingKind.ROWS_LOST]

    await world.repair()

    assert await world.outcomes() == {lost.admission.request_id: "completed"}
    assert await world.found() == []


async def test_rejected_records_are_written_and_their_file_goes(world: World) -> None:
    records = [world.record(), world.record(), world.record()]
    await world.rows.insert_batch(records[:1])
    world.directory.mkdir()
    file = world.directory / f"{HOLDING}.5-7.rejected"
    file.write_bytes(b"".join(map(encoded, records)))
    (finding,) = await world.found()
    assert finding.kind is FindingKind.RECORDS_REJECTED
    assert finding.how_much == "2 of 3 records without a row"

    await world.repair()

    assert len(await world.outcomes()) == 3
    assert not file.exists()
    assert await world.found() == []


async def test_a_rejected_file_that_is_not_wholly_understood_stays(world: World) -> None:
    world.directory.mkdir()
    file = world.directory / f"{HOLDING}.1-2.rejected"
    file.write_bytes(encoded(world.record()) + b"\xc0")

    await world.repair()

    assert len(await world.outcomes()) == 1
    assert file.exists()
    assert await world.kinds() == [FindingKind.RECORDS_REJECTED]


async def test_what_the_database_refuses_stays_where_it_is(world: World) -> None:
    good, bad = world.record(), world.record()
    world.directory.mkdir()
    file = world.directory / f"{HOLDING}.1-2.rejected"
    # Postgres keeps no zero byte in a text.
    file.write_bytes(encoded(good) + encoded(bad).replace(b"/api/chat", b"/api/ch\x00t"))

    done = await world.repair()

    assert "1 of 2 written into the ledger; the database refuses 1" in done
    assert await world.outcomes() == {good.admission.request_id: "completed"}
    assert file.exists()


async def test_a_damaged_journal_is_read_as_far_as_it_can_be(world: World) -> None:
    record = world.record()
    path = left(world.journal(record, opened=(world.admission(),)))
    with path.open("r+b") as file:
        file.seek(layout.HEAD_AT)
        file.write(b"\xff" * layout.WORD)
    assert await world.kinds() == [FindingKind.JOURNAL_UNREADABLE]
    for journal in Adopter(world.directory).adopt_all():
        journal.discard()

    assert await world.kinds() == [FindingKind.RECORDS_DAMAGED]
    await world.repair()
    assert sorted((await world.outcomes()).values()) == ["completed", "lost"]
    (finding,) = await world.found()
    assert finding.how_much == "0 of 2 records without a row"


async def test_records_of_a_month_that_was_dropped_are_not_brought_back(world: World) -> None:
    record = world.record()
    async with world.stores.database.engine.begin() as connection:
        await connection.exec_driver_sql(
            f"INSERT INTO usage_pruned_months (period) VALUES ('{record.admission.period}')"
        )
    left(world.journal(record))

    assert await world.found() == []


async def test_a_journal_of_another_release_is_named(world: World) -> None:
    path = left(world.journal(world.record()))
    size = layout.unpack_header(path.read_bytes())[1]
    version = layout.LAYOUT_VERSION + 1
    body = layout.HEADER.pack(layout.MAGIC, version, size.slots, size.ring_bytes, bytes(16), 0)
    checksum = zlib.crc32(body)
    with path.open("r+b") as file:
        file.write(
            layout.HEADER.pack(layout.MAGIC, version, size.slots, size.ring_bytes, bytes(16), checksum)
        )

    assert await world.kinds() == [FindingKind.JOURNAL_FOREIGN]


async def test_a_journal_that_was_never_finished_is_deleted(world: World) -> None:
    world.directory.mkdir()
    file = world.directory / "01900000-0000-7000-8000-000000000000.tmp"
    file.touch()
    assert await world.kinds() == []
    long_ago = time.time() - 2 * LEFTOVER_AGE_S
    os.utime(file, (long_ago, long_ago))
    assert await world.kinds() == [FindingKind.JOURNAL_LEFTOVER]

    await world.repair()

    assert not file.exists()
