"""What docs/clients.md shows works as it stands there, with this gateway's address and a key in the environment."""

import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from typing import Any, Final

import anyio
import pytest
import yaml

from tests.support.gateway import Gateway, Key
from tests.support.langchain import install_langchain
from tests.support.node import install_clients, run_node
from tests.support.repository import ROOT, text_of
from tests.support.scenes import CannotRun

PAGE: Final = text_of("docs/clients.md")
ADDRESS: Final = "https://gateway.example.com"
RUN_WITHIN_S: Final = 60.0
PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "json": json.loads,
    "toml": tomllib.loads,
    "yaml": yaml.safe_load,
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def curls() -> list[str]:
    """Return the commands that start with `curl`, their continued lines included."""
    commands = (re.split(r"^\$ ", block, flags=re.MULTILINE) for block in blocks("console"))
    return [command for block in commands for command in block if command.startswith("curl ")]


def environ_of(key: Key) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "NNG_KEY": key.text, "NO_PROXY": "127.0.0.1"}


def library(source: str) -> str:
    """Return what a snippet imports from."""
    found = re.search(r"\bfrom \"?([\w@/-]+)", source)
    assert found is not None
    return found[1].replace("/", "-")


async def installed_by(install: Callable[[], Any]) -> Any:
    """Return what `install` returns; skip the test if the machine does not let it."""
    try:
        return await anyio.to_thread.run_sync(install)
    except CannotRun as reason:
        pytest.skip(str(reason))


async def run(*command: str, key: Key, source: str = "") -> str:
    """Run a program that has to succeed, and return what it printed."""
    with anyio.fail_after(RUN_WITHIN_S):
        finished = await anyio.run_process(
            command, input=source.encode(), env=environ_of(key), cwd=ROOT, check=False
        )
    assert finished.returncode == 0, finished.stderr.decode()
    return finished.stdout.decode()


def test_the_page_shows_every_client() -> None:
    assert (len(curls()), len(blocks("python")), len(blocks("js"))) == (2, 4, 3)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("command", curls())
async def test_curl(gateway: Gateway, everything: Key, command: str) -> None:
    strict = command.replace("curl ", "curl --fail-with-body --silent --show-error ", 1)

    assert await run("bash", "-c", strict.replace(ADDRESS, gateway.url), key=everything)


@pytest.mark.parametrize("source", blocks("python"), ids=library)
async def test_python(gateway: Gateway, everything: Key, source: str) -> None:
    python = sys.executable
    if "langchain" in source:
        python = await installed_by(install_langchain)
    said = await run(python, "-", key=everything, source=source.replace(ADDRESS, gateway.url))

    assert "simulated answer" in said


@pytest.mark.parametrize("source", blocks("js"), ids=library)
async def test_javascript(gateway: Gateway, everything: Key, source: str) -> None:
    await installed_by(install_clients)
    source = source.replace(ADDRESS, gateway.url)
    said = await run_node("--input-type=module", "-", source=source, environ=environ_of(everything))

    assert "simulated answer" in said


@pytest.mark.parametrize("language", PARSERS)
def test_configurations_are_what_they_say(language: str) -> None:
    assert all(map(PARSERS[language], blocks(language)))
