"""A real browser without a window: the system's Chromium, in which no page reaches anything but this machine.

`python -m tests.support.chromium` says which one it is, and exits with 75 if there is none.
"""

import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from playwright.async_api import Browser, async_playwright

from tests.support.scenes import CannotRun

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_STARTED_WITHIN_MS: Final = 60_000.0
_CANNOT: Final = 75


def find_chromium() -> str:
    """Return the path of the browser.

    Raises
    ------
    CannotRun
        There is none.
    """
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise CannotRun("Chromium is not installed (on Debian: apt-get install chromium)")
    return found


@asynccontextmanager
async def running_chromium() -> AsyncIterator[Browser]:
    """Run the browser for the length of a block; raises `CannotRun` if there is none."""
    program = find_chromium()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program,
            # Chromium refuses to build its sandbox as root.
            chromium_sandbox=os.geteuid() != 0,
            args=["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--disable-dev-shm-usage"],
            timeout=_STARTED_WITHIN_MS,
        )
        try:
            yield browser
        finally:
            await browser.close()


def main() -> int:
    """Print the browser's path or why there is none, and return the exit code."""
    try:
        sys.stdout.write(f"{find_chromium()}\n")
    except CannotRun as reason:
        sys.stdout.write(f"{reason}\n")
        return _CANNOT
    return 0


if __name__ == "__main__":
    sys.exit(main())
