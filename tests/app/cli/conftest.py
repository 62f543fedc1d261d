"""A command line in a world of its own: a migrated database, an empty Valkey, no settings from outside."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from app.cli.commands import run
from domain.keys import mint_pepper
from tests.support.servers import PASSWORD

PEPPER = mint_pepper("p1")
BACKEND_TOKEN = "canary-of-a-backend-token"
SECRETS = (PEPPER.partition(":")[2], PASSWORD, BACKEND_TOKEN)
_SETTINGS = ("GATEWAY_", "OLLAMA_", "DATABASE_", "REDIS_", "MODEL_DISCOVERY_")


@dataclass(frozen=True)
class Outcome:
    """What one command line left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one line of JSON on standard output."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1
        return json.loads(self.out)

    @property
    def refusal(self) -> str:
        """The one sentence on standard error."""
        assert self.err.count("\n") == 1, self.err
        assert self.out == ""
        assert self.err.startswith("neuronetz-gateway: ")
        return self.err.removeprefix("neuronetz-gateway: ").rstrip("\n")


class CommandLine:
    """Runs command lines in this process, each in a thread with an event loop of its own.

    Whatever they print, no secret of their settings is in it.
    """

    def __init__(self, capture: pytest.CaptureFixture[str], environ: pytest.MonkeyPatch) -> None:
        self._capture = capture
        self._environ = environ

    def set(self, **variables: str) -> None:
        """Set variables of the environment."""
        for name, value in variables.items():
            self._environ.setenv(name, value)

    async def __call__(self, *words: str) -> Outcome:
        """Run one command line."""
        self._capture.readouterr()
        code = await anyio.to_thread.run_sync(run, words)
        captured = self._capture.readouterr()
        for secret in SECRETS:
            assert secret not in captured.out + captured.err
        return Outcome(code, captured.out, captured.err)

    async def good(self, *words: str) -> Outcome:
        """Run one that must succeed."""
        outcome = await self(*words)
        assert outcome.code == 0, outcome.err
        return outcome


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Take every setting away, and let no gateway of the developer be found."""
    for name in [name for name in os.environ if name.startswith(_SETTINGS)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    return monkeypatch


@pytest.fixture
def bare(capsys: pytest.CaptureFixture[str], bare_environment: pytest.MonkeyPatch) -> CommandLine:
    """Give a command line whose environment names nothing."""
    return CommandLine(capsys, bare_environment)


@pytest.fixture
def cli(bare: CommandLine, database_url: str, redis_url: str) -> CommandLine:
    """Give a command line with a migrated database, an empty Valkey and a pepper."""
    bare.set(DATABASE_URL=database_url, REDIS_URL=redis_url, GATEWAY_KEY_PEPPER=PEPPER)
    return bare
