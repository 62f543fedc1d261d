"""Taking over the journals of processes that are gone. Everything here blocks on the disk."""

import fcntl
import os
import time
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec
import structlog

from app.gateway.journal import layout
from app.gateway.journal.entry import encode_record
from app.gateway.journal.journal import Journal
from app.gateway.journal.layout import JournalDamaged, JournalSize, OpenSlot
from domain.usage import Durations, Settlement, UsageOutcome

LEFTOVER_AGE_S: Final = 60.0  # creating a journal takes milliseconds

_log = structlog.get_logger()


class _IdOnly(msgspec.Struct, frozen=True):
    request_id: UUID


class _RecordId(msgspec.Struct, frozen=True):
    admission: _IdOnly


_record_id_decoder = msgspec.msgpack.Decoder(_RecordId)


class Adopter:
    """Looks through one directory for journals nobody holds.

    Several processes may look at the same time: the lock on a file decides which of them gets it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._reported: set[tuple[str, str]] = set()

    def adopt_all(self) -> list[Journal]:
        """Take every journal whose holder is gone, with its open requests closed as lost.

        A file that fails is reported and left for the next time; a damaged one is kept as `<name>.damaged`
        after everything readable went into a new journal.
        """
        adopted = []
        for path in sorted(self._directory.iterdir()):
            try:
                if path.suffix == ".tmp":
                    remove_leftover(path)
                elif is_journal_name(path.name):
                    journal = self._adopt(path)
                    if journal is not None:
                        adopted.append(journal)
            except OSError as exc:
                self._report("journal_adoption_failed", path, error=str(exc))
        return adopted

    def _adopt(self, path: Path) -> Journal | None:
        fd = _lock(path)
        if fd is None:
            return None
        try:
            version, _ = layout.unpack_header(os.pread(fd, layout.HEADER.size, 0))
            if version != layout.LAYOUT_VERSION:
                self._report("journal_layout_unknown", path, version=version)
                os.close(fd)
                return None
            journal = Journal.resume(fd, path)
        except JournalDamaged as exc:
            try:
                return _salvage(fd, path, reason=str(exc))
            finally:
                os.close(fd)
        except BaseException:
            os.close(fd)
            raise
        try:
            lost = close_lost(journal, now=datetime.now(UTC))
            journal.sync()
        except BaseException:
            journal.close()
            raise
        waiting = journal.next_number - journal.first_number
        _log.info("journal_adopted", journal=path.name, lost=lost, records=waiting)
        return journal

    def _report(self, event: str, path: Path, **fields: object) -> None:
        """Log trouble with a file once: every later look at the directory meets it again."""
        if (event, path.name) not in self._reported:
            self._reported.add((event, path.name))
            _log.warning(event, journal=path.name, **fields)


def close_lost(journal: Journal, *, now: datetime) -> int:
    """Settle every open request of a journal as lost and return how many there were.

    One whose record already stands in the ring is only freed: its process died between the two steps.
    """
    slots = journal.open_slots()
    if not slots:
        return 0
    everything = journal.cut(journal.tail, journal.first_number, journal.next_number)
    settled = {_request_id(payload) for payload in journal.payloads(everything)} if everything else set()
    lost = 0
    for slot, content in slots:
        if content.admission.request_id not in settled:
            journal.append(encode_lost(content, now=now))
            lost += 1
        journal.close_slot(slot)
    return lost


def encode_lost(slot: OpenSlot, *, now: datetime) -> bytes:
    """Return the encoded record of a request whose process died: charged for what it had released."""
    attempts = slot.attempted_backends
    settlement = Settlement(
        outcome=UsageOutcome.LOST,
        ended_at=now,
        tokens_in=slot.admission.prompt_tokens_estimate,
        tokens_out=slot.tokens_out,
        tokens_cached=None,
        estimated=True,
        backend=attempts[-1] if attempts else None,
        attempted_backends=attempts,
        durations=Durations(first_token_us=slot.first_release_us),
    )
    return encode_record(layout.encoder.encode(slot.admission), settlement)


def _salvage(fd: int, path: Path, *, reason: str) -> Journal | None:
    """Move everything readable of a damaged file into a new journal and keep the file beside it.

    Records that were confirmed long ago may come along; they find their rows present.
    """
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        data = file.read()
    frames = sorted(layout.find_frames(data), key=attrgetter("number"))
    records = [frame.payload for frame in frames]
    slots = list(layout.find_slots(data))
    settled = {_request_id(record) for record in records}
    now = datetime.now(UTC)
    lost = [
        encode_lost(slot, now=now)
        for slot in slots
        if slot is not None and slot.admission.request_id not in settled
    ]
    _log.error(
        "journal_damaged",
        journal=path.name,
        reason=reason,
        records=len(records),
        lost=len(lost),
        unreadable_slots=slots.count(None),
    )
    journal = _write_new(path.parent, records + lost) if records or lost else None
    path.rename(path.with_name(f"{path.name}.damaged"))
    return journal


def _write_new(directory: Path, records: list[bytes]) -> Journal:
    needed = sum(layout.frame_bytes(len(record)) for record in records)
    pages = needed // layout.HEADER_BYTES + 2
    journal = Journal.create(directory, JournalSize(slots=1, ring_bytes=pages * layout.HEADER_BYTES))
    try:
        for record in records:
            journal.append(record)
        journal.sync()
    except BaseException:
        journal.close()
        raise
    return journal


def _lock(path: Path) -> int | None:
    """Return a locked descriptor of the file that stands at `path`, None if somebody holds it or it went."""
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between open and lock its adopter may have finished with the file and deleted it.
        if stands_at(path, fd):
            return fd
    except BlockingIOError:
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def stands_at(path: Path, fd: int) -> bool:
    """Whether `path` still names the file behind this descriptor."""
    try:
        named, held = path.stat(), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)


def remove_leftover(path: Path) -> None:
    """Delete what a process left that died while it created its journal; nothing was recorded in it."""
    fd = _lock(path)
    if fd is None:
        return
    try:
        if time.time() - os.fstat(fd).st_mtime > LEFTOVER_AGE_S:
            path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def is_journal_name(name: str) -> bool:
    """Whether a file of this name is a journal."""
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


def _request_id(payload: bytes) -> UUID | None:
    try:
        return _record_id_decoder.decode(payload).admission.request_id
    except msgspec.DecodeError:
        return None
