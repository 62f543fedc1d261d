"""What is measured: the simulated Ollama itself, nginx, the server's floor, and the whole gateway."""

import asyncio
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from app.embedded import ports
from app.embedded.environment import neutral_environment
from app.embedded.process import children_of
from app.embedded.running import running_environment
from bench.processes import REPOSITORY, Cores, first_line, pin, running
from bench.tenants import tenants_of
from bench.wire import post
from domain.limits import LimitKind

MODEL = "llama3.2"
_CONNECT_WITHIN_S = 10.0
_PAUSE_S = 0.02
_WIDE = {
    LimitKind.REQUESTS_PER_MINUTE: 100_000_000,
    LimitKind.TOKENS_PER_MINUTE: 100_000_000,
    LimitKind.CONCURRENCY: 100_000,
    LimitKind.TOKENS_PER_DAY: 10**14,
    LimitKind.TOKENS_PER_MONTH: 10**15,
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

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def request(self, path: str, body: dict[str, object]) -> bytes:
        """Return the bytes of one POST."""
        return post(path, json.dumps(body).encode(), self.key)


@contextmanager
def simulator(name: str, cores: frozenset[int], *words: str, model: str = MODEL) -> Iterator[Target]:
    """Run a simulated Ollama whose answers take no time, or one that is told otherwise by `words`."""
    command = (
        *(sys.executable, "-m", "app.simulator", "--name", name, "--models", model),
        *("--exit-with-parent", *(words or ("--token-interval-ms", "0"))),
    )
    environ = neutral_environment(os.environ)
    with running(command, cores=cores, environ=environ, cwd=REPOSITORY) as child:
        ready = json.loads(first_line(child))
        yield Target(name, int(ready["url"].rpartition(":")[2]), (child.pid,))


@contextmanager
def floor(cores: Cores) -> Iterator[Target]:
    """Run an application on granian that does next to nothing."""
    port = ports.pick()
    command = (sys.executable, "-m", "bench.floor", str(port))
    with running(command, cores=cores.target, cwd=REPOSITORY) as child:
        first_line(child)
        _until_listening(port)
        yield Target("granian", port, (child.pid, *children_of(child.pid)))


def nginx_program() -> str | None:
    """Return where nginx is, None if it is not installed."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextmanager
def nginx(program: str, backend: Target, cores: Cores) -> Iterator[Target]:
    """Run nginx as a plain proxy with one worker."""
    port = ports.pick()
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
    settings = {
        "OLLAMA_BACKENDS": json.dumps([{"name": "bench", "base_url": backend.url}]),
        "GATEWAY_LOG_FORMAT": "json",
    }
    with up(settings, cores=cores.others, checkout=checkout) as running_gateway:
        pids = running_gateway.pids
        for pid in pids:
            pin(pid, cores.target)
        free = Target(name, running_gateway.port, pids, key=running_gateway.key)
        found = [free]
        if limited is not None:
            key = asyncio.run(_limited_key(limited, running_gateway.environ()))
            found.append(replace(free, name=limited, key=key))
        yield found


@dataclass(frozen=True)
class Up:
    """A running `up`: its process, its app processes, where they listen, a tenant's key, and its files."""

    pid: int
    pids: tuple[int, ...]
    port: int
    key: str
    state: Path

    def environ(self) -> Mapping[str, str]:
        """Return the settings of its processes, secrets included."""
        found = running_environment(self.state)
        if found is None:
            raise RuntimeError("the gateway has gone")
        return found


@contextmanager
def up(settings: Mapping[str, str], *, cores: frozenset[int], checkout: Path = REPOSITORY) -> Iterator[Up]:
    """Run `up` of a checkout with these settings and no others, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="nng-bench-") as directory:
        errors, state = Path(directory) / "log", Path(directory) / "state"
        words = ("-P", "-m", "app", "up", "--json", "--port", "0", "--state-dir", str(state))
        # What this machine's user has configured for a gateway of their own must not be measured.
        environ = neutral_environment(os.environ) | {"PYTHONPATH": str(checkout), **settings}
        with running(
            (sys.executable, *words), cores=cores, environ=environ, cwd=checkout, errors=errors
        ) as child:
            told = json.loads(first_line(child, errors))
            port = int(told["url"].rpartition(":")[2])
            yield Up(child.pid, tuple(told["pids"]["app"]), port, told["tenant_key"], state)


async def _limited_key(slug: str, environ: Mapping[str, str]) -> str:
    """Make a tenant and a key with every limit, and return the key."""
    async with tenants_of(environ) as tenants:
        (key,) = await tenants.add(slug, limits=_WIDE, key_limits=_WIDE)
    return key.text


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
