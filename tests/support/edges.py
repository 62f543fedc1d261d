"""What the reverse proxies of the tests have in common: a name, a certificate, and a log to search."""

import os
import shutil
import signal
import ssl
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest

from app.embedded import ports
from tests.support.waiting import until, wait_until

HOST: Final = "gateway.example.com"
"""The name that the shipped files use."""
LISTENS_WITHIN_S: Final = 20.0
_ENDED_WITHIN_S: Final = 10.0


class Certificate(msgspec.Struct, frozen=True):
    """A certificate for `HOST` that nobody but the tests believes, and its key."""

    certificate: Path
    key: Path

    @classmethod
    def make(cls, directory: Path) -> "Certificate":
        """Make one; skips the test without the program `openssl`."""
        program = shutil.which("openssl")
        if program is None:
            pytest.skip("openssl is not installed: there is no certificate for the edge")
        made = cls(directory / "edge.crt", directory / "edge.key")
        command = (
            *(program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "2", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"),
            *("-out", os.fspath(made.certificate), "-keyout", os.fspath(made.key)),
        )
        subprocess.run(command, check=True, capture_output=True)
        made.key.chmod(0o644)  # the proxy may run as somebody else
        return made

    def trusted(self) -> ssl.SSLContext:
        """Return what a client believes that trusts this certificate alone."""
        return ssl.create_default_context(cafile=os.fspath(self.certificate))


class Edge(ABC):
    """A reverse proxy in a directory of its own, with the shipped files, on a free port of 127.0.0.1.

    Leave the block to stop it. `replicas` are the ports of the gateways it stands in front of.
    """

    def __init__(self, program: str, directory: Path, certificate: Certificate) -> None:
        directory.mkdir()
        self.directory: Final = directory
        self.certificate: Final = certificate
        self.port: Final = ports.pick()
        self._program: Final = program
        self._trusted: Final = certificate.trusted()
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def configure(self, replicas: Sequence[int]) -> None:
        """Write the configuration for these gateways."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Return the words that start it in the foreground."""

    def start(self, replicas: Sequence[int]) -> None:
        """Start it in front of these gateways and return once it listens."""
        self.configure(replicas)
        with (self.directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.directory,
                env=os.environ | {"HOME": os.fspath(self.directory)},
            )
        wait_until(self._answers, within_s=LISTENS_WITHIN_S)

    def stop(self) -> None:
        """End it and wait until it is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(_ENDED_WITHIN_S)
            finally:
                process.kill()

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None, "the edge is not running"
        self._process.send_signal(number)

    def client(self, *, source: str = "127.0.0.1", **how: Any) -> httpx.AsyncClient:
        """Return a client that asks from this address of the machine."""
        transport = _ByName(
            self.port,
            httpx.AsyncHTTPTransport(
                verify=self._trusted,
                local_address=source,
                limits=httpx.Limits(max_connections=None, keepalive_expiry=5),
            ),
        )
        return httpx.AsyncClient(
            base_url=f"https://{HOST}", transport=transport, trust_env=False, timeout=30, **how
        )

    def logs(self) -> str:
        """Return everything that it has written, whatever the file."""
        files = [path for path in self.directory.rglob("*") if path.is_file() and not self._is_ours(path)]
        return "\n".join(path.read_text(errors="replace") for path in files)

    def _is_ours(self, path: Path) -> bool:
        return path.suffix in {".conf", ".crt", ".key"}

    async def logged(self, text: str) -> str:
        """Return the logs once they hold this text."""
        await until(lambda: text in self.logs(), within_s=5)
        return self.logs()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the edge ended:\n{self.logs()[-4000:]}"
        try:
            with httpx.Client(verify=self._trusted, trust_env=False) as client:
                client.get(f"https://127.0.0.1:{self.port}/healthz", headers={"Host": HOST}, extensions=_SNI)
        except httpx.TransportError:
            return False
        return True


_SNI: Final = {"sni_hostname": HOST}


class _ByName(httpx.AsyncBaseTransport):
    """Sends what is for `HOST` to a port of this machine, as a client would whose resolver says so."""

    def __init__(self, port: int, inner: httpx.AsyncHTTPTransport) -> None:
        self._port = port
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(host="127.0.0.1", port=self._port)
        request.extensions = {**request.extensions, **_SNI}
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()
