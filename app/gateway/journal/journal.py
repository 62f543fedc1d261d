"""One held journal file: memory-mapped, locked, written only by its holder.

Opening, noting progress and settling are plain stores into the mapping: they survive the death of the process
at any instant without a system call. `sync` makes them survive power loss as well.
"""

import fcntl
import mmap
import os
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Self
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from app.gateway.journal import layout
from app.gateway.journal.layout import JournalDamaged, JournalSize
from domain.errors import LedgerFull

_HEAD_WORD = layout.HEAD_AT // layout.WORD
_NS_PER_US = 1000


class Batch(msgspec.Struct, frozen=True):
    """Consecutive settled records of one journal: numbers `first` to `last`, positions `start` to `end`."""

    first: int
    last: int
    start: int
    end: int


class Journal:
    """A journal file this process holds. Not thread-safe, except `sync` and `close`.

    Attributes
    ----------
    path
        Where the file stands.
    next_number
        The number the next settled record will get.
    first_number
        The number of the oldest record that is not confirmed; equals `next_number` when there is none.
    head, tail
        The ring positions of those two.
    words
        The file as machine words: where an open request's progress is stored.
    """

    def __init__(self, fd: int, path: Path, size: JournalSize) -> None:
        self.path = path
        self.size = size
        self.head = self.tail = 0
        self.next_number = self.first_number = 1
        self._fd: int | None = fd
        self._file_lock = threading.Lock()  # a sync may still run when the file is closed
        self._map = mmap.mmap(fd, size.file_bytes)
        self.words = memoryview(self._map).cast("Q")
        self._free = list(range(size.slots - 1, -1, -1))
        self._dirty = False
        self._sync_failed = False
        self._checkpoints = 0
        self._on_settled: Callable[[], None] = _nobody

    @classmethod
    def create(cls, directory: Path, size: JournalSize, journal_id: UUID | None = None) -> Self:
        """Make a new journal and hold it. Blocks on the disk.

        The file gets its name only when it is complete and locked, so nobody ever sees half a journal.

        Raises
        ------
        OSError
            The directory cannot be used or has no room for the whole file.
        """
        journal_id = journal_id or uuid7()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / str(journal_id)
        temporary = directory / f"{journal_id}.tmp"
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(fd, 0, size.file_bytes)
            os.pwrite(fd, layout.pack_header(size, journal_id), 0)
            os.pwrite(fd, layout.pack_checkpoint(0, 1), layout.CHECKPOINTS_AT[0])
            os.fsync(fd)
            temporary.rename(path)
            _sync_directory(directory)
            return cls(fd, path, size)
        except BaseException:
            os.close(fd)
            temporary.unlink(missing_ok=True)
            raise

    @classmethod
    def resume(cls, fd: int, path: Path) -> Self:
        """Hold a locked journal another process left, at the point where that process stopped.

        Its open slots stay taken; `open_slots` returns them.

        Raises
        ------
        JournalDamaged
            The file contradicts itself; nothing was changed.
        """
        _, size = layout.unpack_header(os.pread(fd, layout.HEADER.size, 0))
        if os.fstat(fd).st_size < size.file_bytes:
            raise JournalDamaged("truncated")
        journal = cls(fd, path, size)
        try:
            journal._recover()
        except JournalDamaged:
            journal._unmap()
            raise
        return journal

    @property
    def open_count(self) -> int:
        """How many requests are open."""
        return self.size.slots - len(self._free)

    @property
    def ring_bytes_free(self) -> int:
        """Bytes of the ring that neither a record nor the promise to settle an open request takes."""
        return self.size.ring_bytes - (self.head - self.tail) - self.open_count * layout.FRAME_MAX

    @property
    def is_full(self) -> bool:
        """Whether `open` would refuse."""
        return not self._free or self.ring_bytes_free < layout.FRAME_MAX or self._sync_failed

    @property
    def oldest_settled_us(self) -> int | None:
        """When the oldest unconfirmed record was settled (unix us), None if all are confirmed."""
        if self.head == self.tail:
            return None
        _, _, _, settled_us, _ = layout.FRAME.unpack_from(self._map, self.size.place(self.tail))
        return int(settled_us)

    def notify(self, on_settled: Callable[[], None]) -> None:
        """Have `on_settled` called after every settled record, in the caller's thread."""
        self._on_settled = on_settled

    def take_slot(self, payload: bytes) -> int:
        """Open a record whose encoded admission is `payload` and return its slot.

        Raises
        ------
        LedgerFull
            No slot is free, the ring could not take every open record, the disk refuses to sync, or the
            payload is too large for a slot; nothing was written.
        """
        if self.is_full:
            raise LedgerFull("journal full")
        if len(payload) > layout.PAYLOAD_MAX:
            raise LedgerFull("admission too large for a slot")
        slot = self._free.pop()
        at = self.size.slot_at(slot)
        start = at + layout.PAYLOAD_AT
        self._map[start : start + len(payload)] = payload
        layout.SLOT_BODY.pack_into(self._map, at + layout.WORD, 0, 0, 0, len(payload), zlib.crc32(payload))
        self.words[at // layout.WORD] = layout.SLOT_OPEN
        self._dirty = True
        return slot

    def open_slots(self) -> list[tuple[int, layout.OpenSlot]]:
        """Return (slot, content) of every open request.

        Raises
        ------
        JournalDamaged
            A slot's content is not what was written.
        """
        found = []
        for slot in range(self.size.slots):
            at = self.size.slot_at(slot)
            if self.words[at // layout.WORD] != layout.SLOT_FREE:
                content = layout.unpack_slot(self._map[at : at + layout.SLOT_BYTES])
                if content is not None:
                    found.append((slot, content))
        return found

    def append(self, payload: bytes) -> None:
        """Append one encoded UsageRecord of at most RECORD_MAX bytes to the ring."""
        at = self.size.place(self.head)
        number = self.next_number
        start = at + layout.FRAME.size
        self._map[start : start + len(payload)] = payload
        layout.FRAME.pack_into(
            self._map,
            at,
            layout.FRAME_MAGIC,
            len(payload),
            number,
            time.time_ns() // _NS_PER_US,
            zlib.crc32(payload, number & 0xFFFFFFFF),
        )
        self.head += layout.frame_bytes(len(payload))
        self.next_number = number + 1
        self.words[_HEAD_WORD] = self.head
        self._dirty = True

    def note_attempts(self, slot: int, known_bytes: int, addition: bytes) -> None:
        """Add to a slot's list of attempted backends; what stood there before stays valid throughout."""
        at = self.size.slot_at(slot)
        start = at + layout.ATTEMPTS_AT + known_bytes
        self._map[start : start + len(addition)] = addition
        self.words[at // layout.WORD + layout.ATTEMPTS_LENGTH_WORD] = known_bytes + len(addition)

    def close_slot(self, slot: int) -> None:
        """Free a slot whose record stands in the ring."""
        self.words[self.size.slot_at(slot) // layout.WORD] = layout.SLOT_FREE
        self._free.append(slot)

    def settle(self, slot: int, payload: bytes) -> None:
        """Put the encoded UsageRecord of an open request into the ring, then free its slot."""
        self.append(payload)
        self.close_slot(slot)
        self._on_settled()

    def cut(self, start: int, first: int, limit: int) -> Batch | None:
        """Return the batch of up to `limit` settled records from position `start`, None if none is there."""
        count = min(limit, self.next_number - first)
        if count <= 0:
            return None
        end = start
        for _ in range(count):
            _, length, _, _, _ = layout.FRAME.unpack_from(self._map, self.size.place(end))
            end += layout.frame_bytes(length)
        return Batch(first=first, last=first + count - 1, start=start, end=end)

    def payloads(self, batch: Batch) -> list[bytes]:
        """Return the encoded UsageRecords of a batch that has not been freed."""
        found = []
        position = batch.start
        while position < batch.end:
            at = self.size.place(position)
            _, length, _, _, _ = layout.FRAME.unpack_from(self._map, at)
            found.append(self._map[at + layout.FRAME.size : at + layout.FRAME.size + length])
            position += layout.frame_bytes(length)
        return found

    def free_through(self, batch: Batch) -> None:
        """Give back the ring's space up to and including a confirmed batch."""
        self.tail = batch.end
        self.first_number = batch.last + 1
        self._checkpoints += 1
        at = layout.CHECKPOINTS_AT[self._checkpoints % 2]
        self._map[at : at + layout.CHECKPOINT.size] = layout.pack_checkpoint(self.tail, self.first_number)
        self._dirty = True

    def sync(self) -> None:
        """Make everything written so far survive power loss. Blocks; call it in a thread.

        A disk that fails here makes `open` refuse until a later sync succeeds.

        Raises
        ------
        OSError
            The disk failed.
        """
        if not self._dirty and not self._sync_failed and not self.open_count:
            return
        with self._file_lock:
            if self._fd is None:
                return
            self._dirty = False
            try:
                os.fdatasync(self._fd)
            except OSError:
                self._sync_failed = True
                raise
            self._sync_failed = False

    def close(self) -> None:
        """Let go of the file, which others may adopt from now on. Entries still open become unusable."""
        with self._file_lock:
            fd, self._fd = self._fd, None
        if fd is not None:
            self._unmap()
            os.close(fd)

    def discard(self) -> None:
        """Delete the file, whose records must all be confirmed, and let go of it."""
        self.path.unlink(missing_ok=True)
        self.close()

    def _unmap(self) -> None:
        self.words.release()
        self._map.close()

    def _recover(self) -> None:
        """Find head and tail again, and which slots are taken."""
        checkpoints = [
            layout.unpack_checkpoint(self._map[at : at + layout.CHECKPOINT.size])
            for at in layout.CHECKPOINTS_AT
        ]
        known = [checkpoint for checkpoint in checkpoints if checkpoint is not None]
        if not known:
            raise JournalDamaged("checkpoints")
        self.tail, self.first_number = self.head, self.next_number = max(known)
        self._checkpoints = checkpoints.index((self.tail, self.first_number))
        view = memoryview(self._map)
        try:
            while (frame := layout.unpack_frame(view, self.size.place(self.head))) is not None:
                if frame.number != self.next_number:
                    break
                self.head += layout.frame_bytes(len(frame.payload))
                self.next_number += 1
        finally:
            view.release()
        taken = {slot for slot, _ in self.open_slots()}
        self._free = [slot for slot in self._free if slot not in taken]
        if self.head < self.words[_HEAD_WORD] or self.ring_bytes_free < 0:
            raise JournalDamaged("ring")


def _nobody() -> None:
    """Nobody waits for settled records yet."""


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
