"""Valkey as compose.yml starts it: its own command, with the places of this machine."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import redis
import yaml

from app.embedded.binaries import valkey_server
from app.embedded.ports import pick
from tests.support.repository import text_of

PASSWORD: Final = "0123456789abcdef"
STARTED_WITHIN_S: Final = 10.0


@contextmanager
def valkey_of_compose(scratch: Path) -> Iterator[str]:
    """Run the command of the service `valkey` and give the address of the store."""
    (scratch / "valkey_password").write_text(PASSWORD)
    shell, options, script = yaml.safe_load(text_of("compose.yml"))["services"]["valkey"]["command"]
    port = pick()
    script = (
        script.replace("$$", "$")
        .replace("/run/secrets", str(scratch))
        .replace("dir /data", f"dir {scratch}\nport {port}")
        .replace("bind * -::*", "bind 127.0.0.1")
    )
    program = valkey_server(None)
    process = subprocess.Popen(
        [shell, options, script],
        env={"PATH": f"{program.parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        cwd=scratch,
    )
    try:
        url = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
        _wait_for(url)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(url: str) -> None:
    until = time.monotonic() + STARTED_WITHIN_S
    with redis.Redis.from_url(url) as client:
        while time.monotonic() < until:
            with suppress(redis.ConnectionError):
                client.ping()
                return
    raise AssertionError("the Valkey of compose.yml did not start")
