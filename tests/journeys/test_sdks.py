"""SDKs of the admin API: both are made, type-checked, and do what docs/sdk.md shows, word for word."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import anyio
import pytest

from tests.support.fleet import COMMON, TOKENS_PER_ANSWER
from tests.support.gateway import Gateway
from tests.support.node import install_sdk_tools
from tests.support.repository import ROOT, text_of
from tests.support.scenes import CannotRun

SDK: Final = ROOT / "docs" / "sdk"
_MADE_WITHIN_S: Final = 300.0
_RUN_WITHIN_S: Final = 60.0
TOLD: Final = ["asked: 200", f"tokens: {TOKENS_PER_ANSWER}", "asked with the revoked key: 401"]


def run(*words: str, cwd: Path, environ: dict[str, str] | None = None) -> str:
    """Run a program to its end and return what it printed."""
    # The interpreter's own folder has the programs that came with the tests.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    finished = subprocess.run(
        words,
        cwd=cwd,
        env=os.environ | {"PATH": path} | (environ or {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=_MADE_WITHIN_S,
    )
    assert finished.returncode == 0, f"{' '.join(words)}:\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


def blocks(language: str) -> list[str]:
    """Return what the page shows in that language, in its order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of("docs/sdk.md"), re.MULTILINE | re.DOTALL)


def script(language: str) -> str:
    """Return the script of the page in that language."""
    (found,) = blocks(language)
    return found


async def told_by(gateway: Gateway, *words: str, cwd: Path, environ: dict[str, str]) -> list[str]:
    """Return the lines that a script tells which has the gateway's address and an admin key."""
    environ = {"GATEWAY_URL": gateway.url, "ADMIN_KEY": await gateway.admin_key(), "MODEL": COMMON} | environ
    with anyio.fail_after(_RUN_WITHIN_S):
        told = await anyio.to_thread.run_sync(lambda: run(*words, cwd=cwd, environ=environ))
    return told.splitlines()


async def test_the_python_sdk_does_what_its_page_shows(gateway: Gateway, tmp_path: Path) -> None:
    run(str(SDK / "generate"), str(tmp_path), "python", cwd=ROOT)
    (tmp_path / "script.py").write_text(script("python"))
    environ = {"PYTHONPATH": str(tmp_path / "python"), "MYPYPATH": str(tmp_path / "python")}

    package = str(tmp_path / "python" / "neuronetz_gateway_admin")
    run("mypy", "--config-file=", "--strict", "script.py", package, cwd=tmp_path, environ=environ)
    assert await told_by(gateway, sys.executable, "script.py", cwd=tmp_path, environ=environ) == TOLD


async def test_the_typescript_sdk_does_what_its_page_shows(gateway: Gateway, tmp_path: Path) -> None:
    try:
        install_sdk_tools()
    except CannotRun as reason:
        pytest.skip(str(reason))
    run(str(SDK / "generate"), str(tmp_path), "typescript", cwd=ROOT)
    (tmp_path / "typescript").rename(tmp_path / "admin")
    (tmp_path / "script.ts").write_text(script("ts"))
    package, tsconfig = blocks("json")
    (tmp_path / "package.json").write_text(package)
    (tmp_path / "tsconfig.json").write_text(tsconfig)
    # In place of `npm install`: the tools that made the library.
    (tmp_path / "node_modules").symlink_to(SDK / "node_modules")

    (compiled,) = re.findall(r"^\$ npx (tsc) && (node) (\S+)$", text_of("docs/sdk.md"), re.MULTILINE)
    compiler, *runs = compiled
    run("node", f"node_modules/typescript/bin/{compiler}", cwd=tmp_path)
    assert await told_by(gateway, *runs, cwd=tmp_path, environ={}) == TOLD
