"""A process that holds a journal: `python -m tests.support.journal_holder DIRECTORY SETTLED OPEN`.

It prints one line per request, `settled <id>` or `open <id> <tokens released>`, then waits to be killed.
"""

import sys
from pathlib import Path

from app.gateway.journal.entry import open_entry
from app.gateway.journal.journal import Journal
from app.gateway.journal.layout import JournalSize
from tests.support.usage import admission, settlement


def main(directory: str, settled: str, opened: str) -> None:
    """Fill a journal, then wait for ever."""
    journal = Journal.create(Path(directory), JournalSize(slots=64, ring_bytes=512 * 1024))
    for number in range(int(settled)):
        request = admission()
        open_entry(journal, request).settle(settlement(number))
        sys.stdout.write(f"settled {request.request_id}\n")
    for number in range(int(opened)):
        request = admission()
        entry = open_entry(journal, request)
        entry.sent_to("a")
        entry.sent_to("b")
        entry.progress(number + 1)
        sys.stdout.write(f"open {request.request_id} {number + 1}\n")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
