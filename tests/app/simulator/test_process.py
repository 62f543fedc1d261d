"""The program: start, credentials, restart and the end of its parent."""

import os
import signal
import subprocess
import sys

import anyio
import anyio.to_thread
import httpx
import msgspec
import pytest

from tests.app.simulator.raw import CHAT
from tests.support.ollama import simulated_ollama


@pytest.mark.parametrize(
    ("options", "header", "value"),
    [
        ((), "Authorization", "Bearer s3cret"),
        (("--auth-header", "X-API-Key", "--auth-scheme", ""), "X-API-Key", "s3cret"),
    ],
)
async def test_a_token_is_demanded(options: tuple[str, ...], header: str, value: str) -> None:
    async with simulated_ollama(auth_token="s3cret", options=options) as server:  # noqa: SIM117
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as api:
            given = [{}, {header: value + "x"}, {header: value}]

            statuses = [(await api.get("/api/tags", headers=headers)).status_code for headers in given]

    assert statuses == [401, 401, 200]


async def test_restart_keeps_the_port() -> None:
    async with simulated_ollama() as server:
        before = server.url, server.pid
        server.kill()
        await server.restart()

        assert server.url == before[0]
        assert server.pid != before[1]
        assert (await server.stats()).started == 0


async def test_no_log_still_counts() -> None:
    async with simulated_ollama(options=("--no-log",)) as server:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as api:
            await api.post("/api/chat", json=CHAT)

        assert (await server.requests(), (await server.stats()).ended) == ([], 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_at_once_and_in_order(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "app.simulator", "--exit-with-parent"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        announced = msgspec.json.decode(process.stdout.readline())
        process.send_signal(number)

        assert process.wait(5) == 0
    assert set(announced) == {"name", "url", "pid"}


async def test_it_ends_with_its_parent() -> None:
    starter = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'app.simulator', '--exit-with-parent'])\n"
        "child.wait()\n"
    )
    with subprocess.Popen(  # noqa: ASYNC220 - quick, and the point is its death
        [sys.executable, "-c", starter], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        announced = msgspec.json.decode(parent.stdout.readline())
        parent.kill()
        with anyio.move_on_after(2) as deadline:
            # The pipe ends when the last process that holds it has ended.
            await anyio.to_thread.run_sync(parent.stdout.read, abandon_on_cancel=True)
        if deadline.cancelled_caught:
            os.kill(announced["pid"], signal.SIGKILL)

    assert not deadline.cancelled_caught


def test_wrong_options_are_one_clear_sentence() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "app.simulator", "--models", "a b"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (result.returncode, result.stdout) == (2, "")
    assert "not a model name: 'a b'" in result.stderr
