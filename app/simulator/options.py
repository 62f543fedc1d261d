"""The command line."""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from app.simulator.models import SimulatedModel, parse_model_list

DEFAULT_MODELS: Final = "llama3.2:latest,qwen3:8b,nomic-embed-text:latest"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How the program was started. `port` 0 picks a free one; an empty `auth_token` lets everybody in."""

    host: str = "127.0.0.1"
    port: int = 0
    name: str = "sim"
    models: tuple[SimulatedModel, ...] = ()
    auth_token: str = ""
    auth_header: str = "Authorization"
    auth_scheme: str = "Bearer"
    tokens: int = 12
    token_interval_ms: float = 20
    load_ms: float = 0
    version: str = "0.32.15"
    log: bool = True
    exit_with_parent: bool = False

    def __repr__(self) -> str:
        """Return a text without the token."""
        return f"Options(name={self.name!r}, host={self.host!r}, port={self.port})"


def parse_options(arguments: Sequence[str], environ: Mapping[str, str]) -> Options:
    """Return the options of a command line; exits with a message when it makes no sense."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        models = parse_model_list(given.models)
    except ValueError as exc:
        parser.error(str(exc))
    token = given.auth_token
    if given.auth_token_env:
        token = environ.get(given.auth_token_env, "")
        if not token:
            parser.error(f"{given.auth_token_env} is not set")
    return Options(
        host=given.host,
        port=given.port,
        name=given.name,
        models=models,
        auth_token=token,
        auth_header=given.auth_header,
        auth_scheme=given.auth_scheme,
        tokens=given.tokens,
        token_interval_ms=given.token_interval_ms,
        load_ms=given.load_ms,
        version=given.version,
        log=not given.no_log,
        exit_with_parent=given.exit_with_parent,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.simulator", description="A simulated Ollama server.")
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=0, help="port to listen on; 0 picks a free one")
    add("--name", default="sim", help="first word of every answer")
    add("--models", default=DEFAULT_MODELS, help="hosted models: name[@digest], separated by commas")
    add(
        "--auth-token",
        default="",
        help="demand this token (visible in the process list; prefer --auth-token-env)",
    )
    add("--auth-token-env", default="", metavar="VAR", help="demand the token in this environment variable")
    add("--auth-header", default="Authorization", help="header that carries the token")
    add("--auth-scheme", default="Bearer", help="word before the token; empty for the bare token")
    add("--tokens", type=int, default=12, help="tokens per answer")
    add("--token-interval-ms", type=float, default=20, help="time per token")
    add("--load-ms", type=float, default=0, help="time the first use of a model takes")
    add("--version", default="0.32.15", help="version to report")
    add("--no-log", action="store_true", help="keep no request log (counters only)")
    add("--exit-with-parent", action="store_true", help="end when the starting process ends")
    return parser


def from_command_line(arguments: Sequence[str]) -> Options:
    """Return the options of this process."""
    return parse_options(arguments, os.environ)
