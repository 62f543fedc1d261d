"""A copy of the revocations outside the database, so that a restored backup does not bring revoked keys back.

One JSON object a line, oldest first, only ever added to: `seq`, `scope`, `id` and `at` of the row, and `usable`,
which says whether key or tenant still worked when the line was written. The last line about a key is what counts.
"""

import fcntl
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final
from uuid import UUID

import anyio.to_thread
import msgspec
import structlog

from domain.tenants import Revocation, RevocationScope

PAGE_ROWS: Final = 1000
_TAIL_BYTES: Final = 65_536
Since = Callable[[int, int], Awaitable[Sequence[Revocation]]]

_log = structlog.get_logger()


class MirroredRevocation(msgspec.Struct, frozen=True):
    """One line. A line that does not say whether its subject still worked is taken for the worse."""

    seq: int
    scope: RevocationScope
    id: UUID
    at: datetime
    usable: bool = False

    @property
    def row(self) -> tuple[int, datetime]:
        """What tells a row from one that another history numbers alike."""
        return self.seq, self.at


class RevocationMirror:
    """The file. Several workers may share it: each step holds its lock. Methods raise `OSError`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(MirroredRevocation).decode
        self._forked = False

    async def catch_up(self, since: Since) -> None:
        """Add every row that is not in the file, and return once the disk has them.

        Parameters
        ----------
        since
            Returns the rows above a number in order, at most so many.
        """
        last = await anyio.to_thread.run_sync(self.last)
        # The last line's own row is read again: it tells whether the file and Postgres still agree.
        rows = await _page(since, after=-1 if last is None else last.seq - 1)
        if last is not None and (not rows or rows[0].row != last.row):
            # The file knows what Postgres does not: a backup was restored, or rows were pruned before we came.
            if not self._forked:
                _log.warning(
                    "revocation_mirror_and_database_differ", remedy="neuronetz-gateway restore-fence"
                )
            self._forked = True
            await self.rejoin(since)
            return
        self._forked = False
        await self._add_pages(rows, since, self._append_after_last)

    async def rejoin(self, since: Since) -> None:
        """Add every row that is not in the file, whatever the file ends with."""
        await self._add_pages(await _page(since, after=-1), since, self._append_unknown)

    @staticmethod
    async def _add_pages(
        rows: Sequence[MirroredRevocation],
        since: Since,
        append: Callable[[Sequence[MirroredRevocation]], None],
    ) -> None:
        while rows:
            await anyio.to_thread.run_sync(append, rows)
            rows = await _page(since, after=rows[-1].seq) if len(rows) >= PAGE_ROWS else ()

    def last(self) -> MirroredRevocation | None:
        """Return the last line, None if there is none."""
        with self._locked() as file:
            return self._last(file)

    def lines(self) -> Iterator[MirroredRevocation]:
        """Yield every line. What cannot be read is passed over and told to the log: half a line is no line."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        unreadable = 0
        with file:
            for line in file:
                try:
                    yield self._decode(line)
                except (msgspec.MsgspecError, ValueError):
                    unreadable += 1
        if unreadable:
            _log.warning("revocation_mirror_lines_unreadable", lines=unreadable)

    def _append_after_last(self, rows: Sequence[MirroredRevocation]) -> None:
        with self._locked() as file:
            last = self._last(file)
            # Another worker may have been here since we looked.
            self._append(file, (row for row in rows if last is None or row.seq > last.seq))

    def _append_unknown(self, rows: Sequence[MirroredRevocation]) -> None:
        with self._locked() as file:
            known = {line.row for line in self.lines()}
            self._append(file, (row for row in rows if row.row not in known))

    def _append(self, file: int, rows: Iterable[MirroredRevocation]) -> None:
        lines = b"".join(self._encode(row) + b"\n" for row in rows)
        if not lines:
            return
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            # A writer died in the middle of a line. It stays as the unreadable line that it is.
            lines = b"\n" + lines
        while lines:
            lines = lines[os.write(file, lines) :]
        os.fsync(file)

    def _last(self, file: int) -> MirroredRevocation | None:
        size = os.fstat(file).st_size
        start = max(0, size - _TAIL_BYTES)
        # Searched from the end: what a dying writer or a failing disk has spoilt must not hide the lines before.
        for line in reversed(os.pread(file, size - start, start).splitlines()):
            try:
                return self._decode(line)
            except (msgspec.MsgspecError, ValueError):
                continue
        return None

    @contextmanager
    def _locked(self) -> Iterator[int]:
        created = not self._path.exists()
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if created:
                _sync_directory(self._path.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)


async def _page(since: Since, *, after: int) -> Sequence[MirroredRevocation]:
    return [
        MirroredRevocation(row.seq, row.scope, row.subject_id, row.at, row.usable)
        for row in await since(after, PAGE_ROWS)
    ]


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
