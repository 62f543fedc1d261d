"""Looking at a directory of journals beside the processes that hold them. Everything here blocks on the disk.

Nothing is written, and no lock of a living process is touched: whether a file is held is asked by trying to share its
lock, which fails while it is held. What is read of a held file may be a moment old; a part that is just being
written does not have its checksum yet and is passed over.
"""

import fcntl
import mmap
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Final

import msgspec

from app.gateway.journal import layout
from app.gateway.journal.adoption import LEFTOVER_AGE_S, encode_lost, is_journal_name
from app.gateway.journal.layout import JournalDamaged, JournalSize, OpenSlot
from db.redis.usage_stream import array_head, parse_range
from domain.usage import UsageRecord

DAMAGED: Final = ".damaged"
REJECTED: Final = ".rejected"
_LEFTOVER: Final = ".tmp"
_TRIES: Final = 5

_pieces_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])


class SettledRecord(msgspec.Struct, frozen=True):
    """A record that nobody has confirmed, and when it was settled."""

    record: UsageRecord
    settled_at: datetime


class JournalLook(msgspec.Struct, frozen=True):
    """One journal.

    Attributes
    ----------
    held
        Whether a process that lives holds it.
    open
        Requests that run, or ran when its process died.
    settled
        Records that are not confirmed, oldest first.
    damage
        What contradicts itself in a file that nobody holds; None if nothing does.
    layout_version
        That of the release which wrote it, if it is not ours; nothing else of such a file was read.
    """

    name: str
    held: bool
    open: tuple[OpenSlot, ...] = ()
    settled: tuple[SettledRecord, ...] = ()
    damage: str | None = None
    layout_version: int | None = None


class KeptFile(msgspec.Struct, frozen=True):
    """A file that was set aside: `.rejected` or `.damaged`. `unreadable` counts records that cannot be read."""

    name: str
    records: tuple[UsageRecord, ...]
    unreadable: int

    @property
    def is_damaged(self) -> bool:
        """Whether it is what was a journal, and not records that the worker could not account."""
        return self.name.endswith(DAMAGED)


class DirectoryLook(msgspec.Struct, frozen=True):
    """Everything in a directory of journals. `leftovers` are journals that were never finished."""

    journals: tuple[JournalLook, ...] = ()
    kept: tuple[KeptFile, ...] = ()
    leftovers: tuple[str, ...] = ()


def look(directory: Path) -> DirectoryLook:
    """Return what a directory holds; nothing if it does not exist. Files that vanish meanwhile are left out.

    Raises
    ------
    OSError
        The directory or a file cannot be read.
    """
    journals: list[JournalLook] = []
    kept: list[KeptFile] = []
    leftovers: list[str] = []
    if not directory.is_dir():
        return DirectoryLook()
    for path in sorted(directory.iterdir()):
        with suppress(FileNotFoundError):
            if path.suffix == _LEFTOVER and _is_left_over(path):
                leftovers.append(path.name)
            elif path.suffix == REJECTED:
                kept.append(_rejected(path))
            elif path.suffix == DAMAGED:
                kept.append(_damaged(path))
            elif is_journal_name(path.name):
                journals.append(_journal(path))
    return DirectoryLook(tuple(journals), tuple(kept), tuple(leftovers))


def _journal(path: Path) -> JournalLook:
    with _opened(path) as fd:
        held = _is_held(fd)
        try:
            return _read(path.name, fd, held=held)
        except JournalDamaged as exc:
            # Whoever has adopted it meanwhile was writing while we read, or has deleted it already.
            held = held or _is_held(fd) or not os.fstat(fd).st_nlink
            return JournalLook(path.name, held, damage=None if held else str(exc))


def _read(name: str, fd: int, *, held: bool) -> JournalLook:
    version, size = layout.unpack_header(os.pread(fd, layout.HEADER.size, 0))
    if version != layout.LAYOUT_VERSION:
        return JournalLook(name, held, layout_version=version)
    if os.fstat(fd).st_size < size.file_bytes:
        raise JournalDamaged("truncated")
    with mmap.mmap(fd, size.file_bytes, access=mmap.ACCESS_READ) as mapped:
        # In this order: a request that ends meanwhile is seen twice rather than not at all.
        slots = list(_open_slots(mapped, size, held=held))
        settled = _settled(mapped, size, held=held)
    known = {each.record.admission.request_id for each in settled}
    return JournalLook(
        name, held, tuple(slot for slot in slots if slot.admission.request_id not in known), settled
    )


def _open_slots(mapped: mmap.mmap, size: JournalSize, *, held: bool) -> Iterator[OpenSlot]:
    for number in range(size.slots):
        at = size.slot_at(number)
        if mapped[at : at + layout.WORD] == bytes(layout.WORD):
            continue
        try:
            slot = layout.unpack_slot(mapped[at : at + layout.SLOT_BYTES])
        except JournalDamaged:
            if not held:
                raise
            continue
        if slot is not None:
            yield slot


def _settled(mapped: mmap.mmap, size: JournalSize, *, held: bool) -> tuple[SettledRecord, ...]:
    frames: list[layout.Frame] = []
    for _ in range(_TRIES):
        frames, complete = _frames(mapped, size)
        if complete:
            return tuple(_decoded(frames))
        if not held:
            raise JournalDamaged("ring")
    # A holder that overtakes us time and again frees what it overtakes: it is confirmed.
    return tuple(_decoded(frames))


def _frames(mapped: mmap.mmap, size: JournalSize) -> tuple[list[layout.Frame], bool]:
    """Return the unconfirmed frames, and whether they reach as far as the writer had come when we began."""
    head = int.from_bytes(mapped[layout.HEAD_AT : layout.HEAD_AT + layout.WORD], sys.byteorder)
    checkpoints = [
        layout.unpack_checkpoint(mapped[at : at + layout.CHECKPOINT.size]) for at in layout.CHECKPOINTS_AT
    ]
    known = [checkpoint for checkpoint in checkpoints if checkpoint is not None]
    if not known:
        raise JournalDamaged("checkpoints")
    position, number = max(known)
    frames: list[layout.Frame] = []
    view = memoryview(mapped)
    try:
        while (frame := layout.unpack_frame(view, size.place(position))) is not None:
            if frame.number != number:
                break
            frames.append(frame)
            position += layout.frame_bytes(len(frame.payload))
            number += 1
    finally:
        view.release()
    return frames, position >= head


def _decoded(frames: Iterable[layout.Frame]) -> Iterator[SettledRecord]:
    for frame in frames:
        with suppress(msgspec.MsgspecError):
            record = layout.record_decoder.decode(frame.payload)
            yield SettledRecord(record, datetime.fromtimestamp(frame.settled_us / 1e6, UTC))


def _rejected(path: Path) -> KeptFile:
    """Read a batch that the worker could not account: its records one behind the other, counted in its name."""
    content = path.read_bytes()
    batch = parse_range(path.name.removesuffix(REJECTED).rpartition(".")[2].encode())
    try:
        pieces = _pieces_decoder.decode(array_head(batch.count) + content) if batch is not None else []
    except msgspec.MsgspecError:
        pieces = []
    records = []
    for piece in pieces:
        with suppress(msgspec.MsgspecError):
            records.append(layout.record_decoder.decode(piece))
    return KeptFile(path.name, tuple(records), (batch.count if batch is not None else 1) - len(records))


def _damaged(path: Path) -> KeptFile:
    """Read everything that can be read of what was a journal; what was open counts as lost."""
    data = path.read_bytes()
    ended_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    frames = sorted(layout.find_frames(data), key=attrgetter("number"))
    records = [each.record for each in _decoded(frames)]
    settled = {record.admission.request_id for record in records}
    slots = list(layout.find_slots(data))
    records += [
        layout.record_decoder.decode(encode_lost(slot, now=ended_at))
        for slot in slots
        if slot is not None and slot.admission.request_id not in settled
    ]
    return KeptFile(path.name, tuple(records), slots.count(None))


def _is_left_over(path: Path) -> bool:
    """Whether a journal was never finished. A young one is left alone: its process may be about to lock it."""
    if time.time() - path.stat().st_mtime < LEFTOVER_AGE_S:
        return False
    with _opened(path) as fd:
        return not _is_held(fd)


def _is_held(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)
