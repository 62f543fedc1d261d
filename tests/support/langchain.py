"""LangChain's Ollama package, in an environment of its own: it wants an older `uuid-utils` than the product."""

import os
import re
import shutil
import subprocess
import sys
from typing import Final

from tests.support.repository import ROOT
from tests.support.scenes import CannotRun

SCRIPT: Final = str(ROOT / "tests" / "langchain" / "scenes.py")
_INSTALLED_WITHIN_S: Final = 100.0
_NO_INDEX: Final = re.compile(r"Failed to fetch|error sending request|dns error|network was disabled")


def install_langchain() -> str:
    """Install what the head of `tests/langchain/scenes.py` asks for, unless it is, and return its interpreter.

    Raises
    ------
    CannotRun
        uv is missing, or reaches no package index.
    RuntimeError
        uv failed for any other reason.
    """
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise CannotRun("uv is not there to install langchain-ollama")
    try:
        _run(uv, "sync", "--quiet")
    except subprocess.TimeoutExpired as error:
        raise CannotRun(f"uv did not get langchain-ollama within {_INSTALLED_WITHIN_S:g} s") from error
    except subprocess.CalledProcessError as error:
        if found := _NO_INDEX.search(error.stderr):
            raise CannotRun(f"uv reaches no index to get langchain-ollama from ({found[0]})") from error
        raise RuntimeError(f"uv sync failed:\n{error.stderr}") from error
    return _run(uv, "python", "find").strip()


def _run(uv: str, *words: str) -> str:
    return subprocess.run(
        (uv, *words, "--script", SCRIPT),
        check=True,
        capture_output=True,
        text=True,
        timeout=_INSTALLED_WITHIN_S,
        env=os.environ | {"UV_PYTHON": sys.executable},
    ).stdout
