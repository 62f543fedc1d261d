"""How a journal file is laid out: a header, one slot per open request, a ring of settled records.

The mapping is written by one process and read by whoever adopts the file after that process died, so every
part must be judged from its bytes alone:

- the header's constants carry a checksum; the newest of two alternating checkpoints says where the ring's
  unconfirmed part begins; the head word says how far the writer had come;
- a slot counts only while its state word says OPEN, which is written last and cleared first;
- a frame of the ring counts only if its checksum, seeded with its number, is right.

Positions in the ring only ever grow; a position's place in the file is its remainder. A frame that begins just
before the ring's end runs into `SLACK_BYTES` behind it, so no frame is ever split. Words are in the machine's own byte
order: a journal never leaves its machine, and a native aligned word is stored in one piece.
"""

import struct
import sys
import zlib
from collections.abc import Iterator
from typing import Self
from uuid import UUID

import msgspec

from domain.usage import Admission, Settlement, UsageRecord

MAGIC = 0x314C4E4A474E4E  # "NNGJNL1"
LAYOUT_VERSION = 1
WORD = 8

HEADER_BYTES = 4096
HEADER = struct.Struct("=QIIQ16sI4x")  # magic, version, slots, ring bytes, journal id, checksum of these
HEAD_AT = 1024
CHECKPOINT = struct.Struct("=QQI4x")  # tail position, number of the record there, checksum of both
CHECKPOINTS_AT = (2048, 3072)  # sectors of their own: a torn write spoils one at most

SLOT_BYTES = 2048
SLOT_OPEN = 0x4E45504F474E4E  # "NNGOPEN"
SLOT_FREE = 0
# progress, first release, length of attempts, length and checksum of the payload
SLOT_BODY = struct.Struct("=QQQII")
PROGRESS_WORD = 1
FIRST_RELEASE_WORD = 2  # microseconds after admission, plus one; 0 means nothing was released
ATTEMPTS_LENGTH_WORD = 3
ATTEMPTS_AT = WORD + SLOT_BODY.size
PAYLOAD_AT = 256
ATTEMPTS_MAX = PAYLOAD_AT - ATTEMPTS_AT
PAYLOAD_MAX = SLOT_BYTES - PAYLOAD_AT

FRAME_MAGIC = 0x46474E4E  # "NNGF"
FRAME = struct.Struct("=IIQQI4x")  # magic, payload length, record number, settled at (unix us), checksum
FRAME_MAX = 4096  # what admission keeps free in the ring for every open slot
RECORD_MAX = FRAME_MAX - FRAME.size
SLACK_BYTES = FRAME_MAX

Bytes = bytes | memoryview

encoder = msgspec.msgpack.Encoder(uuid_format="bytes")
admission_decoder = msgspec.msgpack.Decoder(Admission)
record_decoder = msgspec.msgpack.Decoder(UsageRecord)


class JournalSize(msgspec.Struct, frozen=True):
    """The size of a journal file: requests open at once, and bytes for settled records not yet confirmed."""

    slots: int = 4096
    ring_bytes: int = 64 * 1024 * 1024

    @classmethod
    def for_ring(cls, ring_bytes: int) -> Self:
        """Return the size with a ring of about `ring_bytes`, rounded down to whole pages."""
        return cls(ring_bytes=ring_bytes - ring_bytes % HEADER_BYTES)

    def __post_init__(self) -> None:
        if self.slots < 1 or self.ring_bytes < 2 * FRAME_MAX or self.ring_bytes % HEADER_BYTES:
            raise ValueError(f"not a usable journal size: {self}")

    @property
    def ring_at(self) -> int:
        """Where the ring begins in the file, in bytes."""
        return HEADER_BYTES + self.slots * SLOT_BYTES

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file."""
        return self.ring_at + self.ring_bytes + SLACK_BYTES

    def slot_at(self, slot: int) -> int:
        """Where a slot begins in the file, in bytes."""
        return HEADER_BYTES + slot * SLOT_BYTES

    def place(self, position: int) -> int:
        """Where a position of the ring lies in the file, in bytes."""
        return self.ring_at + position % self.ring_bytes


class SettledBody(msgspec.Struct, frozen=True):
    """A UsageRecord whose admission is already encoded; encodes to the same bytes."""

    admission: msgspec.Raw
    settlement: Settlement


class Frame(msgspec.Struct, frozen=True):
    """One settled record as it stands in a file. `payload` is a UsageRecord, `settled_us` unix time."""

    number: int
    payload: bytes
    settled_us: int


class OpenSlot(msgspec.Struct, frozen=True):
    """One request that was open when its process ended."""

    admission: Admission
    tokens_out: int
    first_release_us: int | None
    attempted_backends: tuple[str, ...]


class JournalDamaged(Exception):  # noqa: N818 - reads as what happened
    """A journal file's bytes contradict themselves. The text says what; it quotes no content."""


def frame_bytes(payload_bytes: int) -> int:
    """Return how far a frame's position is from the next one's: FRAME_MAX at most."""
    return FRAME.size + (payload_bytes + WORD - 1) // WORD * WORD


def pack_header(size: JournalSize, journal_id: UUID) -> bytes:
    """Return the constant part of a header."""
    body = HEADER.pack(MAGIC, LAYOUT_VERSION, size.slots, size.ring_bytes, journal_id.bytes, 0)
    return HEADER.pack(MAGIC, LAYOUT_VERSION, size.slots, size.ring_bytes, journal_id.bytes, zlib.crc32(body))


def unpack_header(data: bytes) -> tuple[int, JournalSize]:
    """Return the layout version and the size a header claims.

    Raises
    ------
    JournalDamaged
        It is not a header, or its checksum is wrong.
    """
    if len(data) < HEADER.size:
        raise JournalDamaged("shorter than a header")
    magic, version, slots, ring_bytes, journal_id, checksum = HEADER.unpack_from(data)
    body = HEADER.pack(magic, version, slots, ring_bytes, journal_id, 0)
    if magic != MAGIC or checksum != zlib.crc32(body):
        raise JournalDamaged("header")
    return version, JournalSize(slots=slots, ring_bytes=ring_bytes)


def pack_checkpoint(position: int, number: int) -> bytes:
    """Return one checkpoint of the tail."""
    return CHECKPOINT.pack(position, number, zlib.crc32(b"%d %d" % (position, number)))


def unpack_checkpoint(data: bytes) -> tuple[int, int] | None:
    """Return (position, number) of the tail, or None if these bytes are no checkpoint."""
    position, number, checksum = CHECKPOINT.unpack(data)
    return (position, number) if checksum == zlib.crc32(b"%d %d" % (position, number)) else None


def unpack_frame(data: Bytes, at: int) -> Frame | None:
    """Return the settled record that stands at `at`, or None if none does."""
    if at + FRAME.size > len(data):
        return None
    magic, length, number, settled_us, checksum = FRAME.unpack_from(data, at)
    start = at + FRAME.size
    if magic != FRAME_MAGIC or length > RECORD_MAX or start + length > len(data):
        return None
    payload = bytes(data[start : start + length])
    if checksum != zlib.crc32(payload, number & 0xFFFFFFFF):
        return None
    return Frame(number=number, payload=payload, settled_us=settled_us)


def unpack_slot(data: bytes) -> OpenSlot | None:
    """Return the open request in a slot's bytes, or None if the slot is free.

    Raises
    ------
    JournalDamaged
        The slot is neither free nor what was written into it.
    """
    state = int.from_bytes(data[:WORD], sys.byteorder)
    if state == SLOT_FREE:
        return None
    if state != SLOT_OPEN:
        raise JournalDamaged("slot state")
    tokens_out, first_release, attempts_length, length, checksum = SLOT_BODY.unpack_from(data, WORD)
    payload = bytes(data[PAYLOAD_AT : PAYLOAD_AT + length])
    if length > PAYLOAD_MAX or attempts_length > ATTEMPTS_MAX or checksum != zlib.crc32(payload):
        raise JournalDamaged("slot")
    try:
        admission = admission_decoder.decode(payload)
        attempts = bytes(data[ATTEMPTS_AT : ATTEMPTS_AT + attempts_length]).decode()
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise JournalDamaged("slot content") from exc
    return OpenSlot(
        admission=admission,
        tokens_out=tokens_out,
        first_release_us=first_release - 1 if first_release else None,
        attempted_backends=tuple(attempts.split("\n")) if attempts else (),
    )


def find_frames(data: bytes) -> Iterator[Frame]:
    """Yield every intact settled record anywhere in a file's bytes, whatever the rest looks like."""
    mark = FRAME_MAGIC.to_bytes(4, sys.byteorder)
    at = data.find(mark)
    while at >= 0:
        frame = unpack_frame(data, at) if at % WORD == 0 else None
        if frame is not None:
            yield frame
        at = data.find(mark, at + 1)


def find_slots(data: bytes) -> Iterator[OpenSlot | None]:
    """Yield every open request anywhere in a file's bytes, None for one that is spoiled."""
    mark = SLOT_OPEN.to_bytes(WORD, sys.byteorder)
    at = data.find(mark)
    while at >= 0:
        if at % SLOT_BYTES == 0:
            try:
                yield unpack_slot(data[at : at + SLOT_BYTES].ljust(SLOT_BYTES, b"\0"))
            except JournalDamaged:
                yield None
        at = data.find(mark, at + 1)
