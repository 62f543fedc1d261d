"""The help of every command as people read it: `python -m tests.support.help_texts` writes what the tests compare."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cyclopts import App

from app.cli.commands import app, run

SNAPSHOT: Final = Path(__file__).parents[1] / "app/cli/help.txt"
PLAIN: Final = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
"""The terminal that help is written for, whoever runs this."""


def command_paths(of: App = app, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command and group of commands."""
    yield path
    for name in of:
        if not name.startswith("-"):
            yield from command_paths(of[name], (*path, name))


def help_text(path: tuple[str, ...]) -> str:
    """Return the help of one command; the environment has to be `PLAIN`."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert run((*path, "--help")) == 0
    text = "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())
    return f"$ {' '.join(('neuronetz-gateway', *path, '--help'))}\n{text}\n"


def snapshot() -> dict[str, str]:
    """Return the help texts that were written, by their first line."""
    pieces = SNAPSHOT.read_text().split("\n\n\n")
    return {piece.partition("\n")[0]: f"{piece.rstrip()}\n" for piece in pieces}


def main() -> None:
    """Write the help texts."""
    os.environ |= PLAIN
    SNAPSHOT.write_text("\n\n".join(help_text(path) for path in command_paths()))


if __name__ == "__main__":
    main()
