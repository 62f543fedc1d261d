"""The two simulated Ollama servers of `up --demo`: one model in common, a token on the second."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from app.embedded.ports import LOOPBACK
from app.embedded.process import Command

TOKEN_VARIABLE: Final = "NNG_SIMULATOR_TOKEN"  # noqa: S105 - a name
TOKEN_INTERVAL_MS: Final = 30
RESTART_DELAY_S: Final = 10.0
"""A simulator that somebody killed stays away this long, so that failover can be watched."""


@dataclass(frozen=True)
class Simulator:
    """One simulated server. `models` are the names it hosts."""

    name: str
    models: tuple[str, ...]
    wants_token: bool


SIMULATORS: Final = (
    Simulator("sim-a", ("llama3.2:latest", "qwen3:8b"), wants_token=False),
    Simulator("sim-b", ("llama3.2:latest", "mistral:7b"), wants_token=True),
)


def simulator_command(simulator: Simulator, port: int, *, token: str, environ: Mapping[str, str]) -> Command:
    """Return how to start a simulated server on a loopback port."""
    with_token = ("--auth-token-env", TOKEN_VARIABLE) if simulator.wants_token else ()
    return Command(
        argv=(
            *(sys.executable, "-P", "-m", "app.simulator", "--host", LOOPBACK, "--port", str(port)),
            *("--name", simulator.name, "--models", ",".join(simulator.models), *with_token),
            *("--exit-with-parent", "--token-interval-ms", str(TOKEN_INTERVAL_MS)),
        ),
        env={**environ, TOKEN_VARIABLE: token},
    )


def backends_setting(ports: Sequence[int], *, token: str) -> str:
    """Return the value of OLLAMA_BACKENDS for the simulated servers on these ports."""
    backends = [
        {"name": simulator.name, "base_url": f"http://{LOOPBACK}:{port}"}
        | ({"auth_token": token} if simulator.wants_token else {})
        for simulator, port in zip(SIMULATORS, ports, strict=True)
    ]
    return msgspec.json.encode(backends).decode()
