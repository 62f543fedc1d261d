"""Simulated Ollama servers under a test's control: started as the program they are, ordered over HTTP."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio.to_thread
import httpx
import msgspec

MODELS = "llama3.2:latest,qwen3:8b,nomic-embed-text:latest"

_STOP_S = 5.0
_MARGIN_S = 5.0


class SeenRequest(msgspec.Struct, frozen=True):
    """One inference or management request as the server saw it.

    `tokens` counts content records written to the socket. Times in seconds: `_s` monotonic (this host's clock),
    `_at` wall time.
    """

    number: int
    method: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    body: dict[str, Any] | None
    raw_body: str
    request_id: str | None
    fault: str | None
    tokens: int
    outcome: Literal["in_flight", "completed", "client_closed", "cut"]
    started_s: float
    ended_s: float | None
    started_at: float
    ended_at: float | None

    def header(self, name: str) -> str | None:
        """Return the value of a header, None if it was not sent."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class ConnectionCounts(msgspec.Struct, frozen=True):
    """Client connections, those of the control API left out."""

    open: int
    accepted: int


class Stats(msgspec.Struct, frozen=True):
    """Counters since the last clear. `requests` counts every path, also those that are not logged."""

    requests: dict[str, int]
    started: int
    ended: int
    in_flight: int
    tokens: int
    stalled: int
    connections: ConnectionCounts


class _Requests(msgspec.Struct):
    requests: list[SeenRequest]


class _Announcement(msgspec.Struct):
    name: str
    url: str
    pid: int


class SimulatedOllama:
    """One server process. It ends with this process, whatever happens."""

    def __init__(self, arguments: Sequence[str], auth_token: str | None) -> None:
        self._arguments = tuple(arguments)
        self._auth_token = auth_token
        self._process: subprocess.Popen[bytes] | None = None
        self._client: httpx.AsyncClient | None = None
        self.name = ""
        self.url = ""
        self._launch(port=0)

    @classmethod
    def start(
        cls,
        *,
        name: str = "a",
        models: str = MODELS,
        tokens: int = 12,
        token_interval_ms: float = 0,
        load_ms: float = 0,
        auth_token: str | None = None,
        options: Sequence[str] = (),
    ) -> "SimulatedOllama":
        """Start a server on a free port and return once it listens; `options` are further command-line words."""
        arguments = [
            *("--name", name, "--models", models, "--tokens", str(tokens)),
            *("--token-interval-ms", str(token_interval_ms), "--load-ms", str(load_ms)),
            *(("--auth-token-env", "SIMULATED_TOKEN") if auth_token else ()),
            *options,
        ]
        return cls(arguments, auth_token)

    @property
    def port(self) -> int:
        """The port, which stays the same over restarts."""
        return int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        """The process id."""
        return self._running().pid

    # life and death

    async def stop(self) -> None:
        """End the server (SIGTERM) and wait for it; does nothing if it is gone."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            await anyio.to_thread.run_sync(process.wait, _STOP_S)
        finally:
            process.kill()
            _close(process)

    def kill(self) -> None:
        """End the server at once (SIGKILL)."""
        process = self._running()
        self._process = None
        process.kill()
        process.wait(_STOP_S)
        _close(process)

    async def restart(self) -> None:
        """Start the server again on its port, stopping it first if it runs."""
        port = self.port
        await self.stop()
        self._launch(port=port)

    def _launch(self, *, port: int) -> None:
        command = [
            sys.executable,
            "-m",
            "app.simulator",
            "--port",
            str(port),
            "--exit-with-parent",
            *self._arguments,
        ]
        environment = os.environ | ({"SIMULATED_TOKEN": self._auth_token} if self._auth_token else {})
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        announced = msgspec.json.decode(self._next_line(), type=_Announcement)
        self.name = announced.name
        self.url = announced.url

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the simulated server is not running"
        return self._process

    def _next_line(self) -> bytes:
        output = self._running().stdout
        assert output is not None
        line = output.readline()
        assert line, "the simulated server ended before it was ready"
        return line

    # orders

    async def order(self, fault: str, **details: object) -> None:
        """Order a fault (`app.simulator.faults.Order` lists the kinds and their details)."""
        await self._send("POST", "/_sim/faults", {"fault": fault, **details})

    async def withdraw(self, *, but: str = "") -> None:
        """Withdraw all ordered faults, those `but` that are for this path."""
        await self._send("DELETE", f"/_sim/faults?but={but}")

    async def refuse(self, for_ms: int | None = None) -> None:
        """Refuse new connections, for a time or until `accept_again`; open ones close when they owe nothing."""
        await self.order("refuse", for_ms=for_ms)

    async def accept_again(self) -> None:
        """Listen again after `refuse`, and return once it does."""
        self._running().send_signal(signal.SIGUSR1)
        await self.accepting()

    async def accepting(self) -> None:
        """Return once the server has said that it listens again (after `refuse`)."""
        await anyio.to_thread.run_sync(self._next_line)

    async def host(self, *models: str | dict[str, object]) -> None:
        """Replace the hosted models: names, or objects as `app.simulator.models.SimulatedModel` describes them."""
        listed = [{"name": model} if isinstance(model, str) else model for model in models]
        await self._send("POST", "/_sim/models", listed)

    async def change(self, **settings: float | str) -> None:
        """Change `tokens`, `token_interval_ms`, `load_ms` or `version`."""
        await self._send("POST", "/_sim/settings", settings)

    async def unload(self) -> None:
        """Drop every model from memory, so that the next use loads it."""
        await self._send("POST", "/_sim/unload")

    async def reset(self) -> None:
        """Go back to how the server was started; forget faults, log and counters."""
        await self._send("POST", "/_sim/reset")

    # what was seen

    async def requests(self, *, timeout_s: float = 5, **conditions: int) -> list[SeenRequest]:
        """Return the logged requests, oldest first, once the conditions hold (see `wait`)."""
        body = await self._send("GET", "/_sim/requests", timeout_s=timeout_s, conditions=conditions)
        return msgspec.json.decode(body, type=_Requests).requests

    async def wait(self, *, timeout_s: float = 5, **conditions: int) -> Stats:
        """Return the counters once all conditions hold.

        At least: `started`, `ended` and `tokens` since the last clear, `stalled` (streams whose client does not
        read on). At most: `in_flight`, `connections`.

        Raises
        ------
        TimeoutError
            They did not hold within `timeout_s`.
        """
        body = await self._send("GET", "/_sim/wait", timeout_s=timeout_s, conditions=conditions)
        return msgspec.json.decode(body, type=Stats)

    async def stats(self) -> Stats:
        """Return the counters."""
        return await self.wait()

    async def clear(self) -> None:
        """Forget logged requests and counters."""
        await self._send("DELETE", "/_sim/requests")

    async def _send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        timeout_s: float = 0,
        conditions: dict[str, int] | None = None,
    ) -> bytes:
        if self._client is None:
            self._client = httpx.AsyncClient(trust_env=False, verify=False)  # noqa: S501 - plain HTTP only
        response = await self._client.request(
            method,
            self.url + path,
            content=None if body is None else msgspec.json.encode(body),
            params=None if conditions is None else {**conditions, "timeout_s": timeout_s},
            timeout=timeout_s + _MARGIN_S,
        )
        if response.status_code == httpx.codes.GATEWAY_TIMEOUT:
            raise TimeoutError(f"{conditions} did not hold within {timeout_s} s: {response.text[:1000]}")
        response.raise_for_status()
        return response.content


def _close(process: subprocess.Popen[bytes]) -> None:
    process.wait(_STOP_S)
    if process.stdout is not None:
        process.stdout.close()


@asynccontextmanager
async def simulated_ollama(**how: Any) -> AsyncIterator[SimulatedOllama]:
    """Run a server for the length of a block; the arguments are those of `SimulatedOllama.start`."""
    server = SimulatedOllama.start(**how)
    try:
        yield server
    finally:
        await server.stop()
