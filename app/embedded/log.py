"""One log for all processes: each line says whose it is."""

import threading
from typing import IO, TextIO

_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92)
_NAME_WIDTH = 8  # "postgres", the longest of the fixed names


class Log:
    """Writes lines of many processes to one stream, each under its process's name.

    One thread per process reads its output, so that a slow terminal holds back the writers of the log and
    never the supervisor. When the stream is gone, the output is still read, or the processes would stop at a
    full pipe.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._colour = stream.isatty()
        self._lock = threading.Lock()
        self._names: dict[str, int] = {}

    def line(self, name: str, text: str) -> None:
        """Write one line under a name."""
        label = f"{name:<{_NAME_WIDTH}} |"
        with self._lock:
            if self._colour:
                colour = _COLOURS[self._names.setdefault(name, len(self._names)) % len(_COLOURS)]
                label = f"\x1b[{colour}m{label}\x1b[0m"
            try:
                self._stream.write(f"{label} {text}\n")
                self._stream.flush()
            except (OSError, ValueError):  # the reader of our log left; the work goes on
                return

    def follow(self, name: str, source: IO[bytes] | None) -> threading.Thread:
        """Copy what a process writes there, line by line, until it closes it."""
        reader = threading.Thread(target=self._copy, args=(name, source), name=f"log-{name}", daemon=True)
        reader.start()
        return reader

    def _copy(self, name: str, source: IO[bytes] | None) -> None:
        if source is None:
            return
        with source:
            for raw in source:
                self.line(name, raw.decode(errors="replace").rstrip("\n"))
