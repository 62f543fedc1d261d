"""Every command of DEPLOYMENT.md and operations.md works as written, in the order in which it stands there.

Where a container engine is needed, `tests/support/stand_in/docker` stands in for it: what would run in a container
runs for real, against a gateway, a Postgres and a Valkey of the test's own; the rest is judged by its words.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import msgspec
import pytest
import yaml

from app.embedded.binaries import postgres_bin
from tests.support.gateway import Gateway
from tests.support.handbook import CLUSTER, ENGINE, Block, blocks, clone, fences, script
from tests.support.ollama import SimulatedOllama
from tests.support.repository import ROOT, text_of
from tests.support.servers import PASSWORD, Databases, RedisDatabases
from tests.support.waiting import wait_until

PAGES: Final = ("DEPLOYMENT.md", "operations.md")
STAND_INS: Final = ROOT / "tests/support/stand_in"
DATABASE: Final = "gateway"
PUBLIC_URL: Final = "https://gateway.example.com"
PROGRAMS: Final = {"neuronetz-gateway", "pg_dump", "pg_restore", "dropdb", "createdb", "psql", "ollama"}
COMPOSE_OPTIONS: Final = {
    "build": set(),
    "config": {"--quiet", "--services"},
    "cp": set(),
    "exec": {"-T"},
    "ps": set(),
    "run": {"--rm", "-T", "--no-deps"},
    "stop": set(),
    "up": {"--detach", "--wait", "--no-deps", "--force-recreate"},
    "version": set(),
}
ELSEWHERE: Final = "/tmp/"  # noqa: S108 - a place inside a container
OTHERS: Final = {"container", "cp", "exec", "network", "run", "tag", "volume"}

# Sixty commands, one after the other; a machine that does other things as well takes its time.
pytestmark = pytest.mark.timeout(300)


class Call(NamedTuple):
    """What the container engine was asked for, the compose files that .env named then, and the peppers by then."""

    words: list[str]
    files: list[str]
    peppers: list[str]


class Read(msgspec.Struct, frozen=True):
    """What came of a reader who typed everything: all that was said, and what the container engine was asked for."""

    said: str
    calls: list[Call]


class Host:
    """The machine that the reader sits at: a clone, and app and worker once they are started and needed."""

    def __init__(self, gateway: Gateway, *, socket: Path, directory: Path) -> None:
        self.calls: list[Call] = []
        self.socket = socket
        self._directory = directory
        self._gateway = gateway
        self._wanted = False
        self._runs = False

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Do what the stand-in for the engine asks for while the block runs."""
        async with await asyncio.start_unix_server(self._serve, self.socket):
            yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = json.loads(await reader.readline())
        self.calls.append(Call(words, self._files(), self._peppers()))
        if words[0] == "compose":
            await self._compose(set(words[1:]))
        writer.write(b"!")
        writer.close()

    def _files(self) -> list[str]:
        file = self._directory / ".env"
        named = re.search(r"^COMPOSE_FILE=(.*)$", file.read_text() if file.exists() else "", re.MULTILINE)
        return named[1].split(":") if named else ["compose.yml"]

    def _peppers(self) -> list[str]:
        file = self._directory / "secrets/key_pepper"
        return [each.partition(":")[0] for each in file.read_text().split(",")] if file.exists() else []

    async def _compose(self, words: set[str]) -> None:
        if {"up", "gateway", "--force-recreate"} <= words or {"stop", "gateway"} <= words:
            await self._stop()
        if "up" in words and not words & {"postgres", "ollama"}:
            self._wanted = True
        if {"exec", "neuronetz-gateway"} <= words:
            assert self._wanted, f"nothing was started before {words}"
            await self._start()

    async def _stop(self) -> None:
        self._wanted = self._runs = False
        await self._gateway.app.stop()
        await self._gateway.worker.stop()

    async def _start(self) -> None:
        if not self._runs:
            self._runs = True
            await self._gateway.start()


@pytest.fixture(scope="module")
async def gateway_database_url(postgres: Databases, migrated_template: str) -> AsyncIterator[str]:
    """Give the address of a database named as in the containers; its owner has that name anyway."""
    template = urlsplit(migrated_template).path.lstrip("/")
    postgres.execute(f'CREATE DATABASE {DATABASE} TEMPLATE "{template}"')
    yield urlunsplit(urlsplit(postgres.admin_url)._replace(path=f"/{DATABASE}"))
    postgres.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


@contextmanager
def _warm_command_line(directory: Path) -> Iterator[Path]:
    path = directory / "cli"
    with (directory / "cli.log").open("wb") as log:
        child = subprocess.Popen(
            (sys.executable, "-m", "tests.support.warm_cli", str(path)), cwd=ROOT, stdout=log, stderr=log
        )
    try:
        wait_until(path.exists, within_s=30)
        yield path
    finally:
        child.kill()
        child.wait()


def _variables(gateway: Gateway, directory: Path) -> dict[str, str]:
    store = urlsplit(gateway.database_url)
    return gateway.environ | {
        "GATEWAY_ADMIN_KEY_DIGEST_FILE": str(directory / "secrets/admin_key_digest"),
        "PATH": f"{STAND_INS}:{os.environ['PATH']}",
        "PGHOST": str(store.hostname),
        "PGPORT": str(store.port),
        "PGPASSWORD": PASSWORD,
        "STAND_IN_OWNER_URL": gateway.database_url,
        "STAND_IN_POSTGRES": str(postgres_bin(None)),
    }


@pytest.fixture(scope="module")
async def read(
    gateway_database_url: str, valkey: RedisDatabases, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Read]:
    """Type everything, in a clone of the reader's own."""
    directory, scratch = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("scratch")
    clone(directory)
    settings = {
        "GATEWAY_KEY_PEPPER": "",
        "GATEWAY_KEY_PEPPER_FILE": str(directory / "secrets/key_pepper"),
        "GATEWAY_REVOCATION_MIRROR": str(scratch / "revocations"),
        "GATEWAY_TRUSTED_PROXIES": "127.0.0.1",
    }
    async with AsyncExitStack() as stack:
        backend = SimulatedOllama.start(name="default", models="llama3.2:latest", tokens=4)
        stack.push_async_callback(backend.stop)
        gateway = Gateway(
            database_url=gateway_database_url,
            redis_url=stack.enter_context(valkey.claimed()),
            backends=[backend],
            directory=scratch,
            settings=settings,
        )
        stack.push_async_callback(gateway.aclose)
        host = Host(gateway, socket=scratch / "engine", directory=directory)
        await stack.enter_async_context(host.listening())
        command_line = stack.enter_context(_warm_command_line(scratch))
        program = scratch / "handbook.sh"
        program.write_text(script(PAGES).replace(PUBLIC_URL, gateway.url))
        typed = await asyncio.create_subprocess_exec(
            "bash",
            str(program),
            cwd=directory,
            env=_variables(gateway, directory)
            | {"WARM_CLI": str(command_line), "STAND_IN": str(host.socket)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said = (await typed.communicate())[0].decode()
        assert typed.returncode == 0, said[-6000:]
        yield Read(said, host.calls)


async def test_what_the_handbook_shows_works(read: Read) -> None:
    told = iter(read.said.split("\n"))
    for what in (
        "The first admin key; it is not shown again.",
        "ok llama3.2:latest",
        "default is a simulated",
        "The database is at this release",
        "Confirmed by 1 process",
        "pepper_id",
        "Revoked again: ",
        "Every app process acts upon it.",
    ):
        assert any(what in said for said in told), f"{what}\n{read.said}"


async def test_both_peppers_prove_keys_after_a_rotation(read: Read) -> None:
    counted = re.findall(r"^ (p\w+) +\| +(\d+) \|", read.said, re.MULTILINE)

    assert dict(counted)["p1"] > "0"


async def test_every_app_knows_a_new_pepper_before_one_uses_it(read: Read) -> None:
    peppers = [call.peppers for call in read.calls if {"--force-recreate", "gateway"} <= set(call.words)]

    assert [len(ids) for ids in peppers] == [2] * len(peppers)
    assert [ids.index("p1") for ids in peppers][:2] == [0, 1]


async def test_the_container_engine_is_asked_in_its_own_words(read: Read) -> None:
    for call in read.calls:
        if call.words[0] == "compose":
            _check_compose(call)
        else:
            assert call.words[0] in OTHERS, call


def _check_compose(call: Call) -> None:
    command, *rest = call.words[1:]
    if "--entrypoint" in rest:
        at = rest.index("--entrypoint")
        del rest[at : at + 2]
    services = {name for file in call.files for name in yaml.safe_load(text_of(file))["services"]}
    options = {word for word in rest if word.startswith("-")}
    names = [word.partition(":")[0] for word in rest if not word.startswith("-")]
    if command in {"exec", "run"}:
        options = {word for word in rest[: rest.index(names[0])] if word.startswith("-")}
        assert command == "run" or names[1] in PROGRAMS, call
        names = names[:1]
    elif command == "cp":
        names = names[:1]
    assert options <= COMPOSE_OPTIONS[command], call
    assert set(names) <= services, call


async def test_no_app_and_no_worker_is_left_out(read: Read) -> None:
    """Whatever stops or begins anew the first app means every one that the compose files have."""
    for call in read.calls:
        services = {name for file in call.files for name in yaml.safe_load(text_of(file))["services"]}
        if {"gateway", "worker"} & set(call.words) and {"stop", "--force-recreate"} & set(call.words[1:]):
            named = {name for name in services if name in call.words}
            every = {name for name in services if name.startswith(("gateway", "worker"))}

            assert named in (every, {"gateway"}), call


@pytest.mark.parametrize(
    ("there", "copy", "afterwards"),
    [
        (None, "1\n2\n", "1\n2\n"),
        ("", "1\n2\n", "1\n2\n"),
        ("1\n", "1\n2\n", "1\n2\n"),
        ("1\n2\n3\n", "1\n2\n", "1\n2\n3\n"),
    ],
)
def test_a_copy_of_the_mirror_is_put_back_where_less_is_remembered(
    tmp_path: Path, there: str | None, copy: str, afterwards: str
) -> None:
    program = re.search(r"--entrypoint sh gateway-admin -c '(.*?)' < revocations\.copy", _text(), re.DOTALL)
    mirror = tmp_path / "revocations"
    if there is not None:
        mirror.write_text(there)

    assert program is not None
    here = (
        program[1]
        .replace(ELSEWHERE, f"{tmp_path}/")
        .replace("/var/lib/neuronetz-gateway/mirror", f"{tmp_path}")
    )
    subprocess.run(("sh", "-c", here), input=copy, text=True, check=True)

    assert mirror.read_text() == afterwards


def test_no_command_sets_aside_the_files_that_the_settings_name() -> None:
    assert [block for block in _all_blocks() if re.search(r"compose (--file|-f)\b", block.text)] == []


def test_a_rolling_restart_waits_as_long_as_nginx_asks_for() -> None:
    rolling = [
        block.text
        for block in _all_blocks()
        if re.search(r"--no-deps \S* ?gateway-2$", block.text, re.MULTILINE)
    ]

    assert len(rolling) == 2
    assert all(re.search(r"--no-deps .*\nsleep 15\ndocker compose up .*--no-deps ", text) for text in rolling)


def test_whatever_is_asked_of_the_engine_is_marked() -> None:
    for block in _all_blocks():
        asked = re.search(r"\bdocker\b", block.text) is not None

        assert (block.mark == ENGINE) == asked, f"{block.page}:{block.line}"


def test_every_block_of_commands_is_found() -> None:
    pages = (*PAGES, "kubernetes.md")

    assert {page: sum(language == "sh" for language in fences(page)) for page in pages} == {
        page: len(blocks(page)) for page in pages
    }
    assert "console" not in {language for page in pages for language in fences(page)}


def test_what_needs_a_cluster_can_at_least_be_read() -> None:
    (block,) = blocks("kubernetes.md")
    read = subprocess.run(("bash", "-n"), input=block.text, text=True, capture_output=True, check=False)

    assert block.mark == CLUSTER
    assert (read.returncode, read.stderr) == (0, "")
    for path in re.findall(r"\bops/\S+", block.text):
        assert (ROOT / path).exists(), path


def _all_blocks() -> tuple[Block, ...]:
    return tuple(block for page in PAGES for block in blocks(page))


def _text() -> str:
    return "\n".join(block.text for block in _all_blocks())
