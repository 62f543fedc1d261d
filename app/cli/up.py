"""`neuronetz-gateway up`: everything on this machine, from nothing but the installed packages."""

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.embedded.handover import Report
    from app.embedded.log import Log
    from app.embedded.stack import Options

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
KEY_VARIABLE = "$NNG_KEY"


def up(
    *,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    state_dir: Path | None = None,
    demo: bool = False,
    json: bool = False,
) -> int:
    """Start everything on this machine: PostgreSQL, Valkey, the worker and the gateway.

    The first start prints an admin key and a first tenant's key. Data stays in the state directory. Ctrl-C
    lets running streams finish and ends everything in order; a second one does not wait.

    Example: `neuronetz-gateway up --demo` needs no Ollama: it adds two simulated servers.

    Parameters
    ----------
    host
        Address to listen on.
    port
        Port to listen on; 0 picks a free one.
    state_dir
        Where data, keys and journals are kept. Default: $XDG_STATE_HOME/neuronetz-gateway.
    demo
        Add two simulated Ollama servers, the second behind a token, and use only them.
    json
        Print the ready message as one line of JSON on standard output.
    """
    from app.embedded.errors import EmbeddedError
    from app.embedded.log import Log
    from app.embedded.stack import Options
    from app.settings import default_state_dir
    from db.settings import SettingsError

    options = Options(host=host, port=port, state_dir=state_dir or default_state_dir(os.environ), demo=demo)
    try:
        asyncio.run(_run(options, Log(sys.stderr), show=_print_json if json else _print_text))
    except (EmbeddedError, SettingsError) as refusal:
        print(f"neuronetz-gateway up: {refusal}", file=sys.stderr)
        return 1
    return 0


async def _run(options: "Options", log: "Log", *, show: Callable[["Report"], None]) -> None:
    from app.embedded.requests_to_stop import requests_to_stop
    from app.embedded.stack import Stack

    stack = Stack(options, environ=os.environ, log=log)
    work = asyncio.create_task(stack.run(show), name="stack")

    def stop() -> None:
        log.line("up", "stopping; once more to stop at once")
        work.cancel()

    with requests_to_stop(stop=stop, hurry=stack.hurry):
        with suppress(asyncio.CancelledError):
            await work
        log.line("up", "stopped")


def _print_json(report: "Report") -> None:
    import msgspec

    print(msgspec.json.encode(report.ready).decode(), flush=True)


def _print_text(report: "Report") -> None:
    print(ready_message(report), flush=True)


def ready_message(report: "Report") -> str:
    """Return what a person needs to know once everything serves."""
    ready = report.ready
    key = ready.tenant_key or KEY_VARIABLE
    model = next((model for models in report.hosted.values() for model in models), "llama3.2")
    return "\n".join(
        (
            "",
            f"  neuronetz-gateway is ready on {ready.url}",
            "",
            *_keys(report),
            "",
            *_backends(report),
            "",
            "  Try it:",
            "",
            _curl(ready.url, key, model),
            "",
            "  Or in Python (`uv run python`), with the official client:",
            "",
            _python(ready.url, key, model),
            "",
            "  Ctrl-C stops everything.",
            "",
        )
    )


def _keys(report: "Report") -> list[str]:
    ready = report.ready
    if ready.tenant_key is None:
        return [
            "  Keys were shown at the first start; `export NNG_KEY=...` makes the lines below work.",
            f"  Another one: neuronetz-gateway keys create NAME --tenant {ready.tenant}",
        ]
    shown = [f"  Key of tenant {ready.tenant}: {ready.tenant_key}"]
    if ready.admin_key is not None:
        shown.append(f"  Admin key:          {ready.admin_key}")
    return [*shown, "  They are not shown again; only their digests are kept."]


def _backends(report: "Report") -> list[str]:
    lines = ["  Backends, first choice first:"]
    for backend in report.ready.backends:
        models = ", ".join(report.hosted.get(backend.name, ())) or "no models (does it run?)"
        lines.append(f"    {backend.name}  {backend.url}  {models}")
    if not any(report.hosted.values()):
        lines += [
            "  No model is there yet. Start Ollama on this machine, or name your servers and start again:",
            """    OLLAMA_BACKENDS='[{"name": "gpu-1", "base_url": "http://10.0.0.11:11434"}]'""",
        ]
    return lines


def _curl(url: str, key: str, model: str) -> str:
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "hello"}}]}}'
    return f"""curl -N {url}/api/chat -H "Authorization: Bearer {key}" -d '{body}'"""


def _python(url: str, key: str, model: str) -> str:
    expanded = f'os.path.expandvars("Bearer {key}")' if key == KEY_VARIABLE else f'"Bearer {key}"'
    return f"""import os, ollama
client = ollama.Client(host="{url}", headers={{"Authorization": {expanded}}})
for part in client.chat(model="{model}", messages=[{{"role": "user", "content": "hello"}}], stream=True):
    print(part.message.content, end="", flush=True)
"""
