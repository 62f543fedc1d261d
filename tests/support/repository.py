"""The repository as its own tests see it: what is tracked, and what it says."""

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def tracked() -> tuple[Path, ...]:
    """Return the tracked files that exist, relative to the root."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    names = (Path(name) for name in listed.decode().split("\0") if name)
    return tuple(name for name in names if (ROOT / name).is_file())


def text_of(path: Path | str) -> str:
    """Return the text of a file, its undecodable bytes replaced: what is looked for is ASCII."""
    return (ROOT / path).read_text(encoding="utf-8", errors="replace")
