"""`probe-ollama`: whether each Ollama server answers, with the authentication that the gateway would use."""

import asyncio
import os
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter
from cyclopts.validators import Number

from app.cli.failure import FAILED
from app.cli.options import LOCAL, Local
from app.cli.output import NOTHING, Table, count_of, progress, say, show_json, show_table
from app.cli.place import environment, find_running, load, names_database

if TYPE_CHECKING:
    from app.cli.backend_probe import Answer, Probe

DEFAULT_TIMEOUT_S: Final = 5.0

_VARIABLES: Final = ("OLLAMA_BACKENDS", "OLLAMA_BACKENDS_FILE", "OLLAMA_BASE_URL")


async def probe_ollama(
    *,
    timeout_s: Annotated[
        float, Parameter(name="--timeout", validator=Number(gt=0, lte=300))
    ] = DEFAULT_TIMEOUT_S,
    common: Local = LOCAL,
) -> int:
    """Ask every backend for its version and its models, now.

    Uses OLLAMA_BACKENDS or OLLAMA_BASE_URL where one is set, else the backends of the `up` that runs, else
    an Ollama on this machine. Needs no database. Exits with 1 unless all answer.

    Example: `OLLAMA_BASE_URL=http://10.0.0.5:11434 neuronetz-gateway probe-ollama`

    Parameters
    ----------
    timeout_s
        Seconds that each answer may take.
    """
    from app.cli.backend_probe import probe
    from db.settings import BackendSettings

    backends = load(BackendSettings, _environment(common)).backends()
    tls = ssl.create_default_context()
    with progress(f"asking {count_of(len(backends), 'backend')}"):
        probes = await asyncio.gather(*(probe(backend, timeout_s=timeout_s, tls=tls) for backend in backends))
    failed = sum(not each.ok for each in probes)
    if common.json:
        show_json({"ok": not failed, "backends": probes})
    else:
        headings = ("backend", "address", "token", "version", "models")
        show_table(Table(headings, [_row(each) for each in probes]))
        if failed:
            say(f"{failed} of {count_of(len(probes), 'backend')} failed.")
    return FAILED if failed else 0


def _environment(common: Local) -> Mapping[str, str]:
    if common.state_dir is not None:
        return environment(common)
    if names_database(os.environ) or any(os.environ.get(name, "").strip() for name in _VARIABLES):
        return os.environ
    return find_running(None) or os.environ


def _row(each: "Probe") -> tuple[str, ...]:
    version, tags = each.answers
    return (
        each.name,
        each.base_url,
        "attached" if each.token_attached else "none",
        f"ok {each.version}" if version.result == "ok" else _trouble(version),
        f"ok {_models(each)}" if tags.result == "ok" else _trouble(tags),
    )


def _models(each: "Probe") -> str:
    more = each.model_count - len(each.models)
    names = ", ".join(each.models) or NOTHING
    return f"{names} and {more} more" if more else names


def _trouble(answer: "Answer") -> str:
    match answer.result:
        case "transport_error":
            return f"transport error: {answer.error}"
        case "http_status":
            return f"HTTP {answer.status}"
        case _:
            return "not an answer of Ollama"
