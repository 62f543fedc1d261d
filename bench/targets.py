"""What is measured: the simulated Ollama itself, nginx, the server's floor, and the whole gateway."""

import json
import os
import shutil
import socket
import subprocess  # nosec B404
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from app.embedded.process import children_of
from bench.processes import Cores, first_line, pin, running

MODEL = "llama3.2"
_CONNECT_WITHIN_S = 10.0
_PAUSE_S = 0.02
_REPOSITORY = Path(__file__).parents[1]
_WIDE = {
    "requests-per-minute": 100_000_000,
    "tokens-per-minute": 100_000_000,
    "concurrency": 100_000,
    "tokens-per-day": 10**14,
    "tokens-per-month": 10**15,
}

_NGINX = """
{user}
worker_processes 1;
daemon off;
pid {directory}/pid;
error_log {directory}/errors warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  keepalive_requests 100000000;
  upstream ollama {{
    server 127.0.0.1:{backend};
    keepalive 512;
    keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://ollama;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Target:
    """Something that answers requests. `pids` are the processes whose time and memory count as its own."""

    name: str
    port: int
    pids: tuple[int, ...]
    key: str | None = None

    def request(self, path: str, body: dict[str, object]) -> bytes:
        """Return the bytes of one POST."""
        content = json.dumps(body).encode()
        key = "" if self.key is None else f"Authorization: Bearer {self.key}\r\n"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n{key}"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content


@contextmanager
def simulator(name: str, cores: frozenset[int]) -> Iterator[Target]:
    """Run a simulated Ollama whose answers take no time."""
    words = ("--name", name, "--models", MODEL, "--token-interval-ms", "0", "--exit-with-parent")
    with running((sys.executable, "-m", "app.simulator", *words), cores=cores, cwd=_REPOSITORY) as child:
        ready = json.loads(first_line(child))
        yield Target(name, int(ready["url"].rpartition(":")[2]), (child.pid,))


@contextmanager
def floor(cores: Cores) -> Iterator[Target]:
    """Run an application on granian that does next to nothing."""
    port = _free_port()
    command = (sys.executable, "-m", "bench.floor", str(port))
    with running(command, cores=cores.target, cwd=_REPOSITORY) as child:
        first_line(child)
        _until_listening(port)
        yield Target("granian", port, (child.pid, *children_of(child.pid)))


def nginx_program() -> str | None:
    """Return where nginx is, None if it is not installed."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextmanager
def nginx(program: str, backend: Target, cores: Cores) -> Iterator[Target]:
    """Run nginx as a plain proxy with one worker."""
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="nng-bench-") as directory:
        config = Path(directory) / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(
            _NGINX.format(user=user, directory=directory, port=port, backend=backend.port), encoding="ascii"
        )
        errors = Path(directory) / "stderr"
        command = (program, "-c", str(config), "-p", directory, "-e", f"{directory}/errors")
        with running(command, cores=cores.target, errors=errors) as child:
            _until_listening(port)
            yield Target("nginx", port, (child.pid, *children_of(child.pid)))


@contextmanager
def gateway(
    name: str, checkout: Path, backend: Target, cores: Cores, *, limited: str | None = None
) -> Iterator[list[Target]]:
    """Run everything as in production: app, worker, Postgres, Valkey. The app's processes are the target.

    With a name for `limited` there is a second target of that name: the same processes, asked by a tenant and a key
    that both have every limit, wide ones.
    """
    address = f"http://127.0.0.1:{backend.port}"
    ours = {
        "PYTHONPATH": str(checkout),
        "OLLAMA_BACKENDS": json.dumps([{"name": "bench", "base_url": address}]),
        "GATEWAY_LOG_FORMAT": "json",
    }
    with tempfile.TemporaryDirectory(prefix="nng-bench-") as directory:
        errors = Path(directory) / "log"
        state = str(Path(directory) / "state")
        command = (sys.executable, "-P", "-m", "app", "up", "--json", "--port", "0", "--state-dir", state)
        environ = _neutral_environment() | ours
        with running(command, cores=cores.others, environ=environ, cwd=checkout, errors=errors) as child:
            ready = json.loads(first_line(child, errors))
            pids = tuple(ready["pids"]["app"])
            for pid in pids:
                pin(pid, cores.target)
            free = Target(name, int(ready["url"].rpartition(":")[2]), pids, key=ready["tenant_key"])
            found = [free]
            if limited is not None:
                found.append(replace(free, name=limited, key=_limited_key(limited, state, checkout, environ)))
            yield found


def _limited_key(slug: str, state: str, checkout: Path, environ: dict[str, str]) -> str:
    """Make a tenant and a key with every limit, and return the key."""

    def run(*words: str) -> str:
        command = (sys.executable, "-P", "-m", "app", *words, "--state-dir", state)
        done = subprocess.run(command, env=environ, cwd=checkout, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    run("tenants", "create", slug, "--all-models")
    key = run("keys", "create", "bench", "--tenant", slug)
    wide = [word for name, limit in _WIDE.items() for word in (f"--{name}", str(limit))]
    run("limits", "set", "--tenant", slug, *wide)
    run("limits", "set", "--tenant", slug, "--key", key[: len("nng_") + 8], *wide)
    return key


def _neutral_environment() -> dict[str, str]:
    # What this machine's user has configured for a gateway of their own must not be measured.
    prefixes = ("GATEWAY_", "OLLAMA_", "DATABASE_", "REDIS_", "MODEL_DISCOVERY_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _until_listening(port: int) -> None:
    deadline = time.monotonic() + _CONNECT_WITHIN_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_S)
        else:
            return
