"""From nothing to a streamed answer with one command, and back to nothing however it ends."""

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec
import ollama
import pytest

from app.cli.up import ready_message
from app.embedded.handover import Ready, Report
from app.embedded.running import running_environment
from tests.support.up import READY_WITHIN_S, REPOSITORY, Up, all_gone, running_up, uv_run
from tests.support.waiting import wait_until

READY_FIELDS = {
    "url",
    "admin_key",
    "tenant",
    "tenant_key",
    "database_url",
    "redis_url",
    "backends",
    "pids",
}


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up") / "state"


@pytest.fixture(scope="module")
def demo(state_dir: Path) -> Iterator[Up]:
    """Run the first start of a demo."""
    with running_up(state_dir, "--demo") as up:
        yield up
        pids = up.descendants()
        assert up.end(signal.SIGINT) == 0
        all_gone(pids, within_s=1)


def test_the_ready_line_holds_what_is_promised(demo: Up) -> None:
    assert set(demo.ready) == READY_FIELDS
    assert [backend["name"] for backend in demo.ready["backends"]] == ["sim-a", "sim-b"]
    assert {"app", "worker", "postgres", "valkey"} == set(demo.ready["pids"])


def test_the_app_s_processes_are_listed_parent_first(demo: Up) -> None:
    parent, *workers = demo.ready["pids"]["app"]

    assert workers
    for worker in workers:
        assert f"PPid:\t{parent}\n" in Path(f"/proc/{worker}/status").read_text()


def test_the_printed_key_streams_an_answer(demo: Up) -> None:
    headers = {"Authorization": f"Bearer {demo.ready['tenant_key']}"}
    with ollama.Client(host=demo.ready["url"], headers=headers) as client:
        parts = list(
            client.chat(model="llama3.2", messages=[{"role": "user", "content": "hello"}], stream=True)
        )

    assert len(parts) > 2
    assert parts[-1].done


def test_the_printed_curl_line_streams_an_answer_when_pasted(demo: Up) -> None:
    if shutil.which("curl") is None:
        pytest.skip("this machine has no curl")
    (line,) = [line for line in printed(demo).splitlines() if line.startswith("curl ")]

    answer = subprocess.run(["sh", "-c", line], check=True, capture_output=True, text=True, timeout=30)

    assert '"done":true' in answer.stdout.splitlines()[-1]


def test_the_printed_python_lines_stream_an_answer_when_pasted(demo: Up) -> None:
    text = printed(demo)
    program = text[text.index("import ") : text.index("  Ctrl-C")]

    answer = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=30
    )

    assert answer.stdout


def test_an_instance_without_models_says_how_to_name_backends(demo: Up) -> None:
    assert "OLLAMA_BACKENDS=" in ready_message(Report(msgspec.convert(demo.ready, Ready), {"sim-a": ()}))


def test_a_later_start_says_how_to_get_another_key(demo: Up) -> None:
    later = msgspec.convert(demo.ready | {"tenant_key": None, "admin_key": None}, Ready)

    assert "neuronetz-gateway keys create" in ready_message(Report(later, {}))


def test_a_wrong_setting_is_refused_in_one_sentence(tmp_path: Path) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "app", "up", "--port", "0", "--state-dir", str(tmp_path / "state")],
        check=False,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | {"OLLAMA_BACKENDS": "nonsense"},
        timeout=30,
    )

    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "OLLAMA_BACKENDS" in refused.stderr


def test_the_models_of_both_backends_are_listed_once(demo: Up) -> None:
    reply = httpx.get(
        f"{demo.ready['url']}/api/tags", headers={"Authorization": f"Bearer {demo.ready['tenant_key']}"}
    )

    names = sorted(model["name"] for model in reply.json()["models"])
    assert names == ["llama3.2:latest", "mistral:7b", "qwen3:8b"]


def test_nobody_gets_in_without_a_key(demo: Up) -> None:
    assert httpx.get(f"{demo.ready['url']}/api/tags").status_code == 401


def test_each_line_of_the_log_names_its_process(demo: Up) -> None:
    known = re.compile(r"(app|worker|postgres|valkey|sim-[ab]|prepare|up) +\| ")

    assert [line for line in demo.log().splitlines() if not known.match(line)] == []


def test_no_key_and_no_password_stands_in_the_log(demo: Up) -> None:
    log = demo.log()

    for secret in (demo.ready["tenant_key"], demo.ready["admin_key"], _password(demo.ready["database_url"])):
        assert secret not in log


def test_other_commands_find_the_running_instance(demo: Up, state_dir: Path) -> None:
    found = running_environment(state_dir)

    assert found is not None
    assert demo.ready["database_url"] == found["DATABASE_URL"]
    assert demo.ready["redis_url"] == found["REDIS_URL"]
    assert stat.S_IMODE((state_dir / "running.json").stat().st_mode) == 0o600


def test_a_second_up_on_the_same_directory_is_refused_in_one_sentence(demo: Up, state_dir: Path) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "app", "up", "--port", "0", "--state-dir", str(state_dir)],
        check=False,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=30,
    )

    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert str(state_dir) in second.stderr
    assert str(demo.process.pid) in second.stderr


def test_an_up_on_a_taken_port_is_refused_in_one_sentence(demo: Up, tmp_path: Path) -> None:
    port = demo.ready["url"].rpartition(":")[2]
    second = subprocess.run(
        [sys.executable, "-m", "app", "up", "--port", port, "--state-dir", str(tmp_path / "other")],
        check=False,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=30,
    )

    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert f"port {port}" in second.stderr


def test_a_dead_app_and_a_dead_worker_come_back(demo: Up) -> None:
    old = [*demo.ready["pids"]["app"], *demo.ready["pids"]["worker"]]
    started = demo.log().count("gateway_started"), demo.log().count("worker_started")

    os.kill(demo.ready["pids"]["app"][0], signal.SIGKILL)
    os.kill(demo.ready["pids"]["worker"][0], signal.SIGKILL)

    all_gone(old, within_s=1)
    wait_until(lambda: demo.log().count("gateway_started") > started[0], within_s=READY_WITHIN_S)
    wait_until(lambda: demo.log().count("worker_started") > started[1], within_s=READY_WITHIN_S)
    wait_until(lambda: _is_green(demo), within_s=READY_WITHIN_S)


def test_dead_servers_come_back_at_their_addresses(demo: Up) -> None:
    old = [demo.ready["pids"]["postgres"], demo.ready["pids"]["valkey"]]

    for pid in old:
        os.kill(pid, signal.SIGKILL)

    all_gone(old, within_s=1)
    wait_until(lambda: _accepts(demo.ready["database_url"]), within_s=READY_WITHIN_S)
    wait_until(lambda: _accepts(demo.ready["redis_url"]), within_s=READY_WITHIN_S)


def test_a_killed_up_leaves_nothing_running_and_loses_nothing(tmp_path: Path) -> None:
    with running_up(tmp_path / "state", launcher=uv_run()) as first:
        pids = first.descendants()
        first.end(signal.SIGKILL)  # of `uv run`, where there is one: it takes `up` along

        all_gone(pids, within_s=1.5)

    with running_up(tmp_path / "state") as second:
        assert second.ready["tenant"] == first.ready["tenant"]
        assert (second.ready["admin_key"], second.ready["tenant_key"]) == (None, None)
        assert second.ready["database_url"] == first.ready["database_url"]

        pids = second.descendants()
        second.end(signal.SIGKILL)

        all_gone(pids, within_s=1)


def printed(up: Up) -> str:
    """Return what this instance would have printed without `--json`."""
    hosted: dict[str, tuple[str, ...]] = {"sim-a": ("llama3.2:latest",), "sim-b": ("llama3.2:latest",)}
    return ready_message(Report(msgspec.convert(up.ready, Ready), hosted))


def _is_green(up: Up) -> bool:
    try:
        return httpx.get(f"{up.ready['url']}/readyz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def _accepts(url: str) -> bool:
    parts = urlsplit(url)
    try:
        socket.create_connection((str(parts.hostname), parts.port or 0), timeout=1).close()
    except OSError:
        return False
    return True


def _password(url: str) -> str:
    return url.split("@", maxsplit=1)[0].rpartition(":")[2]
