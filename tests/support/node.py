"""Node, the official JavaScript clients and the makers of the SDK: installed once, for all test processes."""

import fcntl
import hashlib
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import anyio

from tests.support.repository import ROOT
from tests.support.scenes import CannotRun

HOME: Final = ROOT / "tests" / "js"
SDK: Final = ROOT / "docs" / "sdk"
_OLDEST_NODE: Final = 20
_INSTALLED_WITHIN_S: Final = 100.0
_PLAYED_WITHIN_S: Final = 60.0
_NO_REGISTRY: Final = re.compile(
    r"\b(?:ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ENOTCACHED"
    r"|ERR_SOCKET_TIMEOUT|FETCH_ERROR)\b"
)


def install_clients() -> None:
    """Install the official clients, as `_install` does."""
    _install(HOME)


def install_sdk_tools() -> None:
    """Install what makes and compiles the TypeScript SDK, as `_install` does."""
    _install(SDK)


def _install(home: Path) -> None:
    """Install what `package-lock.json` lists, unless it is installed; one process does it, the others wait.

    Raises
    ------
    CannotRun
        Node or npm is missing or too old, or npm reaches no registry.
    RuntimeError
        npm failed for any other reason.
    """
    _demand_node()
    wanted = hashlib.sha256((home / "package-lock.json").read_bytes()).hexdigest()
    stamp = home / "node_modules" / ".installed"
    with (home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        _npm_ci(home)
        stamp.write_text(wanted)


def _demand_node() -> None:
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise CannotRun(
                f"{program} is not installed; the tests of JavaScript need Node {_OLDEST_NODE} or newer"
            )
    version = subprocess.run(("node", "--version"), check=True, capture_output=True, text=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < _OLDEST_NODE:
        raise CannotRun(f"Node is {version}; the tests in JavaScript need {_OLDEST_NODE} or newer")


def _npm_ci(home: Path) -> None:
    try:
        subprocess.run(
            ("npm", "ci", "--prefer-offline"),
            cwd=home,
            check=True,
            capture_output=True,
            text=True,
            timeout=_INSTALLED_WITHIN_S,
        )
    except subprocess.TimeoutExpired as error:
        raise CannotRun(f"npm did not get what {home.name} needs within {_INSTALLED_WITHIN_S:g} s") from error
    except subprocess.CalledProcessError as error:
        if found := _NO_REGISTRY.search(error.stderr):
            raise CannotRun(
                f"npm reaches no registry to get what {home.name} needs from ({found[0]})"
            ) from error
        raise RuntimeError(f"npm ci failed:\n{error.stderr}") from error


async def run_node(*arguments: str, source: str = "", environ: Mapping[str, str] | None = None) -> str:
    """Run Node where the clients are installed, `source` on its standard input, and return what it printed.

    Raises
    ------
    AssertionError
        It failed.
    TimeoutError
        It took too long.
    """
    with anyio.fail_after(_PLAYED_WITHIN_S):
        finished = await anyio.run_process(
            ["node", *arguments], input=source.encode(), cwd=HOME, env=environ, check=False
        )
    assert finished.returncode == 0, finished.stderr.decode()
    return finished.stdout.decode()
