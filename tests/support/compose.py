"""The compose files as Docker Compose itself reads them, where it is installed."""

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.repository import ROOT

OVERRIDES: Final = ("compose.admin.yml", "compose.dev.yml", "compose.gpu.yml", "compose.scale.yml")
OLDEST_MAJOR: Final = 2
_CANNOT: Final = 75
NOT_HERE: Final = (
    "Docker Compose is not installed: the package docker-compose (2.24 or newer) or docker-compose-plugin"
)


@functools.cache
def docker_compose() -> tuple[str, ...] | None:
    """Return how Docker Compose is called on this machine, None without one of version 2."""
    plugins = (
        Path(folder, "cli-plugins", "docker-compose") for folder in ("/usr/libexec/docker", "/usr/lib/docker")
    )
    found = [path for path in (shutil.which("docker-compose"), *map(str, plugins)) if path is not None]
    for command in (("docker", "compose"), *((path,) for path in found)):
        try:
            asked = subprocess.run(
                [*command, "version", "--short"], capture_output=True, text=True, check=False
            )
        except OSError:
            continue
        version = asked.stdout.strip().removeprefix("v").partition(".")[0]
        if asked.returncode == 0 and version.isdecimal() and int(version) >= OLDEST_MAJOR:
            return command
    return None


def project(directory: Path, env: Mapping[str, str] | None = None) -> Path:
    """Lay out what an operator has: the compose files, and `.env.sample` copied to `.env` with some lines added."""
    for name in ("compose.yml", *OVERRIDES, "Containerfile"):
        shutil.copy(ROOT / name, directory)
    lines = "".join(f"{name}={value}\n" for name, value in (env or {}).items())
    (directory / ".env").write_text((ROOT / ".env.sample").read_text() + lines)
    return directory


def asked(directory: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Have Docker Compose read `compose.yml` and overrides, with no settings but those of `.env`."""
    command = docker_compose()
    if command is None:
        pytest.skip(NOT_HERE)
    files = [word for name in ("compose.yml", *overrides) for word in ("--file", name)]
    environ = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG") if name in os.environ}
    return subprocess.run(
        [*command, *files, "config", "--format", "json"],
        cwd=directory,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def rendered(directory: Path, *overrides: str) -> Any:
    """Return what Docker Compose would start."""
    done = asked(directory, *overrides)
    assert done.returncode == 0, done.stderr
    assert "variable is not set" not in done.stderr
    return json.loads(done.stdout)


def main() -> int:
    """Print how Docker Compose is called or that it is not, and return the exit code."""
    found = docker_compose()
    sys.stdout.write(f"{NOT_HERE if found is None else ' '.join(found)}\n")
    return _CANNOT if found is None else 0


if __name__ == "__main__":
    sys.exit(main())
