"""The program as it is installed: every command once as a process of its own, in the order of a first day."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from db.usage import UsageRows
from tests.support.ledger_records import record
from tests.support.ollama import simulated_ollama
from tests.support.repository import ROOT
from tests.support.rows import add_acme
from tests.support.servers import PASSWORD

HELP_WITHIN_S = 3.0  # half a second on an idle machine; tests share theirs
FORBIDDEN_FOR_HELP = ("litestar", "sqlalchemy", "pydantic", "httpx", "redis", "granian")


def environment(**variables: str) -> dict[str, str]:
    keep = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in keep if name in os.environ} | variables


def start(words: tuple[str, ...], environ: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "app", *words],
        env=environ,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


async def test_a_first_day(empty_database_url: str, redis_url: str, tmp_path: Path) -> None:
    """Init, migrate, tenants, grants, keys, usage, backends, revocation."""
    secrets = tmp_path / "secrets"
    environ = environment(XDG_STATE_HOME=str(tmp_path))

    def commands_at_once(*lines: tuple[str, ...]) -> list[str]:
        done = [finish(process) for process in [start(words, environ) for words in lines]]
        for code, out, err in done:
            assert code == 0, err
            assert PASSWORD not in out + err
        return [out for _, out, _ in done]

    def command(*words: str) -> str:
        return commands_at_once(words)[0]

    admin_key = command("init", "--directory", str(secrets)).strip()
    environ |= {
        "DATABASE_URL": empty_database_url,
        "REDIS_URL": redis_url,
        "GATEWAY_KEY_PEPPER_FILE": str(secrets / "key_pepper"),
        "GATEWAY_ADMIN_KEY_DIGEST_FILE": str(secrets / "admin_key_digest"),
    }
    assert admin_key[:13] in command("migrate")
    command("tenants", "create", "research")
    key, _ = commands_at_once(
        ("keys", "create", "laptop", "--tenant", "research"),
        ("models", "allow", "llama3*", "--tenant", "research"),
    )
    command("keys", "revoke", key[:12])
    async with simulated_ollama() as server:
        environ["OLLAMA_BASE_URL"] = server.url
        tenants, keys, grants, usage, probed = commands_at_once(
            ("tenants", "list"), ("keys", "list"), ("models", "list"), ("usage",), ("probe-ollama",)
        )
    command("models", "disallow", "llama3*", "--tenant", "research")
    assert "research" in tenants
    assert "revoked" in keys
    assert "llama3*" in grants
    assert "total" in usage
    assert "llama3.2:latest" in probed
    code, _, err = finish(start(("list-models",), environ))
    assert (code, err.count("\n")) == (1, 1)  # no worker has written the table


def test_help_and_version_are_quick() -> None:
    started = time.monotonic()
    code, out, err = finish(start(("--help",), environment()))

    assert time.monotonic() - started < HELP_WITHIN_S
    assert (code, err) == (0, "")
    assert "up --demo" in out


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from app.cli.commands import run; run(['--help']);"
        f"print([m for m in {FORBIDDEN_FOR_HELP!r} if m in sys.modules], file=sys.stderr)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stderr == "[]\n"


def test_the_document_and_the_version_are_printed() -> None:
    version, document = start(("--version",), environment()), start(("openapi",), environment())

    assert finish(version) == (0, "0.1.0\n", "")
    assert finish(document)[1] == (ROOT / "docs/openapi.json").read_text()


@pytest.mark.parametrize(
    ("words", "variable"),
    [
        (("probe-ollama", "--timeout", "60"), "OLLAMA_BASE_URL=http://127.0.0.1:{}"),
        (("tenants", "list"), "DATABASE_URL=postgresql://u:p@127.0.0.1:{}/x"),
    ],
)
def test_ctrl_c_is_quiet(words: tuple[str, ...], variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        name, _, address = variable.format(silent.getsockname()[1]).partition("=")
        process = start(words, environment(**{name: address}))
        with silent.accept()[0] as connection:
            connection.recv(1)  # it has asked, and now waits

            process.send_signal(signal.SIGINT)

            assert finish(process) == (130, "", "")


@pytest.mark.parametrize("words", [("openapi",), ("usage", "--until", "2031-06-30", "--export", "-")])
async def test_a_reader_that_left_is_no_fault(
    words: tuple[str, ...], database_url: str, engine: AsyncEngine
) -> None:
    connection = await asyncpg.connect(database_url)
    await add_acme(connection)
    await connection.close()
    await UsageRows(engine).insert_batch([record()])
    process = start(words, environment(DATABASE_URL=database_url))
    assert process.stdout is not None
    process.stdout.close()

    assert process.wait(30) == 1
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
