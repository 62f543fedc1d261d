"""The commands that a page of the handbook shows, in the order in which a reader meets them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.repository import ROOT, text_of

ENGINE: Final = "# needs the container engine"
CLUSTER: Final = "# needs a cluster"

_BLOCK: Final = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ANY_FENCE: Final = re.compile(r"^```(\w*)$")


class Block(NamedTuple):
    """One block of commands: where it stands, and its text."""

    page: str
    line: int
    text: str

    @property
    def mark(self) -> str | None:
        """What it says to need, if anything."""
        first = self.text.partition("\n")[0]
        return first if first in {ENGINE, CLUSTER} else None


def blocks(page: str) -> tuple[Block, ...]:
    """Return the blocks of commands of a page in docs/."""
    text = text_of(f"docs/{page}")
    return tuple(
        Block(page, text.count("\n", 0, each.start()) + 2, each[1]) for each in _BLOCK.finditer(text)
    )


def fences(page: str) -> Iterator[str]:
    """Yield the language of every fenced block."""
    inside = False
    for line in text_of(f"docs/{page}").splitlines():
        if fence := _ANY_FENCE.fullmatch(line):
            inside = not inside
            if inside:
                yield fence[1]


def script(pages: tuple[str, ...]) -> str:
    """Return all blocks that need no cluster as one program that stops at the first failure and says where it is."""
    lines = ["set -euo pipefail"]
    for block in (block for page in pages for block in blocks(page) if block.mark != CLUSTER):
        lines += [f"echo '=== {block.page}:{block.line}'", block.text]
    return "\n".join(lines)


def clone(directory: Path) -> None:
    """Lay what the commands find in a clone of the repository."""
    for name in (".env.sample", *(path.name for path in ROOT.glob("compose*.yml"))):
        (directory / name).write_bytes((ROOT / name).read_bytes())
    (directory / "ops").symlink_to(ROOT / "ops")
