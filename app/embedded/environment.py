"""The settings that `up` gives its children, on top of what the operator set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import app
from app.embedded.state_dir import Secrets, StateDirectory

DRAIN_S: Final = 10
"""Streams of a local trial need not be waited for as long as those of a server."""

_BACKEND_VARIABLES: Final = ("OLLAMA_BACKENDS", "OLLAMA_BASE_URL")


def names_backends(environ: Mapping[str, str]) -> bool:
    """Return whether the operator said where the Ollama servers are."""
    return any(_is_set(environ, name) for name in _BACKEND_VARIABLES)


def gateway_environment(
    environ: Mapping[str, str],
    *,
    state: StateDirectory,
    secrets: Secrets,
    stores: Mapping[str, str],
    host: str,
    port: int,
    backends: str | None,
) -> dict[str, str]:
    """Return the whole environment of the app and the worker.

    Addresses and the journal are ours whatever the operator's environment says; the pepper, the metrics token
    and the rest are the operator's where they are set.
    """
    ours = {
        **stores,
        "GATEWAY_JOURNAL_DIR": str(state.journal),
        "GATEWAY_HOST": host,
        "GATEWAY_PORT": str(port),
        "GATEWAY_WORKER_HEALTH_HOST": "127.0.0.1",
        "GATEWAY_WORKER_HEALTH_PORT": "0",
        "GATEWAY_EXIT_WITH_PARENT": "true",
    }
    if backends is not None:
        ours["OLLAMA_BACKENDS"] = backends
    defaults = {
        "GATEWAY_KEY_PEPPER": secrets.key_pepper,
        "GATEWAY_METRICS_TOKEN": secrets.metrics_token,
        "GATEWAY_DRAIN_SECONDS": str(DRAIN_S),
        "GATEWAY_LOG_FORMAT": "console",
    }
    if backends is not None:
        # The demo's documentation is for whoever tries it.
        defaults["GATEWAY_DOCS_PUBLIC"] = "true"
    ours |= {name: value for name, value in defaults.items() if not _is_set(environ, name)}
    return _python_environment(_without(environ, ours)) | ours


def neutral_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of our other programs: nothing of the gateway's settings."""
    return _python_environment({name: value for name, value in environ.items() if _is_neutral(name)})


def _is_set(environ: Mapping[str, str], name: str) -> bool:
    return any(environ.get(twin, "").strip() for twin in (name, f"{name}_FILE"))


def _without(environ: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    # A twin NAME_FILE beside NAME is a contradiction that the settings refuse; DATABASE_DIRECT_URL would lead
    # to the operator's own database.
    dropped = {*names, *(f"{name}_FILE" for name in names), "DATABASE_DIRECT_URL", "DATABASE_DIRECT_URL_FILE"}
    return {name: value for name, value in environ.items() if name not in dropped}


def _is_neutral(name: str) -> bool:
    return not name.startswith(("GATEWAY_", "OLLAMA_", "DATABASE_", "REDIS_", "MODEL_DISCOVERY_"))


def _python_environment(environ: Mapping[str, str]) -> dict[str, str]:
    # The children run in the operator's directory, where relative *_FILE paths mean what they should; so they
    # are told where our packages are.
    packages = str(Path(app.__file__).resolve().parents[1])
    path = environ.get("PYTHONPATH", "")
    return {
        **environ,
        "PYTHONPATH": f"{packages}:{path}" if path else packages,
        "PYTHONUNBUFFERED": "1",
    }
