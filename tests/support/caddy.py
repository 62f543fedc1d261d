"""A real Caddy with the shipped Caddyfile, but for its addresses and where its certificate comes from."""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.support.edges import HOST, Certificate, Edge
from tests.support.repository import ROOT

SHIPPED: Final = ROOT / "ops/caddy/Caddyfile.example"

_EMAIL: Final = "email ops@example.com"
_SITE: Final = f"\n{HOST} {{\n"
_UPSTREAM: Final = "reverse_proxy 127.0.0.1:8000 {"
_SECONDS: Final = re.compile(r"(?<= )(\d+)s$", re.MULTILINE)


def find_caddy() -> str:
    """Return the Caddy of the dependency group `edge`, else the machine's; skips the test if there is neither."""
    own = os.fspath(Path(sys.executable).parent)
    found = shutil.which("caddy", path=os.pathsep.join((own, os.environ.get("PATH", ""))))
    if found is None:
        pytest.skip("Caddy is not installed (uv sync --group edge)")
    return found


class Caddy(Edge):
    """Caddy with the shipped settings; `hurry` divides their times."""

    def __init__(self, directory: Path, certificate: Certificate, *, hurry: float = 1) -> None:
        super().__init__(find_caddy(), directory, certificate)
        self._hurry = hurry

    def configure(self, replicas: Sequence[int]) -> None:
        """Write in what an operator would."""
        text = _SECONDS.sub(lambda found: f"{int(found[1]) * 1000 / self._hurry:.0f}ms", SHIPPED.read_text())
        storage = f"storage file_system {self.directory}/storage"
        ours = {
            _EMAIL: f"admin off\nskip_install_trust\nauto_https disable_redirects\n{storage}",
            _SITE: f"\nhttps://{HOST}:{self.port} {{\nbind 127.0.0.1\n"
            f"tls {self.certificate.certificate} {self.certificate.key}\n",
            _UPSTREAM: f"reverse_proxy {' '.join(f'127.0.0.1:{each}' for each in replicas)} {{",
        }
        for shipped, own in ours.items():
            assert text.count(shipped) == 1, f"the shipped file has changed: {shipped!r}"
            text = text.replace(shipped, own)
        (self.directory / "caddy.conf").write_text(text)

    def command(self) -> Sequence[str]:
        """Return the words that start it in the foreground."""
        return (self._program, "run", "--adapter", "caddyfile", "--config", f"{self.directory}/caddy.conf")
