"""A command line in a world of its own: a migrated database, an empty Valkey, no settings from outside."""

import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from app.cli.commands import run
from domain.keys import PepperRing, mint_pepper
from domain.tenants import Actor
from tests.support.admin import new_slug
from tests.support.gateway import Gateway
from tests.support.ollama import SimulatedOllama
from tests.support.servers import APP_ROLE, PASSWORD, Databases, RedisDatabases

PEPPER = mint_pepper("p1")
BACKEND_TOKEN = "canary-of-a-backend-token"
SECRETS = (PEPPER.partition(":")[2], PASSWORD, APP_ROLE.password, BACKEND_TOKEN)
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
    bare.set(DATABASE_URL=APP_ROLE.address(database_url), REDIS_URL=redis_url, GATEWAY_KEY_PEPPER=PEPPER)
    return bare


@pytest.fixture(scope="module")
def gateway_redis_url(valkey: RedisDatabases) -> Iterator[str]:
    """Give the address of the running gateway's logical database."""
    with valkey.claimed() as url:
        yield url


@pytest.fixture(scope="module")
async def gateway(
    postgres: Databases,
    migrated_template: str,
    gateway_redis_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Gateway]:
    """Run a gateway over one backend."""
    async with AsyncExitStack() as stack:
        backend = SimulatedOllama.start(name="a", models="llama3.2:latest", tokens=8)
        stack.push_async_callback(backend.stop)
        gateway = Gateway(
            database_url=postgres.create(template=migrated_template),
            redis_url=gateway_redis_url,
            backends=[backend],
            directory=tmp_path_factory.mktemp("gateway"),
            settings={"GATEWAY_KEY_PEPPER": PEPPER},
        )
        stack.push_async_callback(gateway.aclose)
        await gateway.start()
        yield gateway


@pytest.fixture(scope="module")
async def admin_key(gateway: Gateway) -> str:
    """Mint an operator's key."""
    async with gateway.database.unit_of_work(Actor("test")) as work:
        issued = await work.keys(None).create("ops", peppers=PepperRing.parse(PEPPER))
    return issued.minted.reveal()


class BothWays:
    """One command line that is told by its environment where the database is, and one that only knows a key."""

    def __init__(self, cli: CommandLine, gateway: Gateway, redis_url: str, admin_key: str) -> None:
        self._cli = cli
        self._gateway = gateway
        self._here = {
            "DATABASE_URL": APP_ROLE.address(gateway.database_url),
            "REDIS_URL": redis_url,
            "GATEWAY_KEY_PEPPER": PEPPER,
            "OLLAMA_BACKENDS": json.dumps(
                [{"name": name, "base_url": each.url} for name, each in gateway.backends.items()]
            ),
        }
        self._key = admin_key

    async def here(self, *words: str) -> Outcome:
        """Run a command in the database."""
        self._cli.set(**self._here, GATEWAY_ADMIN_KEY="")
        return await self._cli(*words)

    async def there(self, *words: str) -> Outcome:
        """Run the same command by the admin API."""
        self._cli.set(GATEWAY_ADMIN_KEY=self._key, **dict.fromkeys(self._here, ""))
        outcome = await self._cli(*words, "--url", self._gateway.url)
        assert self._key not in outcome.out + outcome.err
        return outcome

    async def same(self, *words: str) -> Outcome:
        """Run a command that only reads both ways, and return what both gave."""
        here, there = await self.here(*words), await self.there(*words)
        assert (here.code, here.out) == (there.code, there.out), there.err
        return there


@pytest.fixture
def both(bare: CommandLine, gateway: Gateway, gateway_redis_url: str, admin_key: str) -> BothWays:
    """Give a command line for the running gateway, asked either way."""
    return BothWays(bare, gateway, gateway_redis_url, admin_key)


@pytest.fixture
async def slug(both: BothWays) -> str:
    """Create a tenant from elsewhere and return its slug."""
    slug = new_slug()
    words = ("tenants", "create", slug, "--name", "Research lab", "--time-zone", "Europe/Berlin")
    created = await both.there(*words, "--json")
    assert created.json["tenant"]["name"] == "Research lab"
    return slug
