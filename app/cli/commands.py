"""All commands, and what becomes of them: an exit code, and one sentence where it is not 0."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

from cyclopts import App, CycloptsError, Parameter, UnknownOptionError, UnusedCliTokensError

from app.cli import backends, catalogue, config, jobs, keys, limits, models, policies, tenants, usage_group
from app.cli.audit import audit
from app.cli.completion import add_completion
from app.cli.doctor import doctor
from app.cli.failure import BAD_INPUT, FAILED, CommandFailed, ReaderLeft
from app.cli.init import init
from app.cli.migrate import migrate
from app.cli.openapi import openapi
from app.cli.output import say
from app.cli.probe import probe_ollama
from app.cli.restore_fence import restore_fence
from app.cli.serve import serve, worker
from app.cli.up import up

_ELSEWHERE: Final = frozenset({"--url", "--admin-key-file"})
_LOCAL: Final = "This command runs on the gateway's own machine; it takes neither --url nor --admin-key-file."

app = App(
    name="neuronetz-gateway",
    help="""One HTTPS address in front of several Ollama servers.

Example: `neuronetz-gateway up --demo` starts everything on this machine, simulated Ollama servers included.
""",
    version=lambda: version("neuronetz-gateway"),
    # A switch that is off by default needs no second name to switch it off.
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)
for command in (
    up,
    serve,
    worker,
    migrate,
    init,
    probe_ollama,
    catalogue.list_models,
    audit,
    restore_fence,
    doctor,
    openapi,
):
    app.command(command)
for group in (tenants, keys, models, limits, policies, usage_group, backends, jobs, config):
    app.command(group.app)
add_completion(app)


def run(words: Sequence[str] | None = None) -> int:
    """Carry out one command line (None: that of this process) and return its exit code."""
    try:
        code = app(
            words, exit_on_error=False, print_error=False, result_action="return_int_as_exit_code_else_zero"
        )
        sys.stdout.flush()
    except UnusedCliTokensError as refusal:
        left = " ".join(refusal.unused_tokens or ())
        say(f"neuronetz-gateway: {left!r} means nothing here; --help shows what does.")
        return BAD_INPUT
    except UnknownOptionError as refusal:
        option = (refusal.token.keyword or refusal.token.value).partition("=")[0]
        say(f"neuronetz-gateway: {_LOCAL if option in _ELSEWHERE else refusal}")
        return BAD_INPUT
    except CycloptsError as refusal:
        say(f"neuronetz-gateway: {refusal}")
        return BAD_INPUT
    except CommandFailed as failure:
        say(f"neuronetz-gateway: {failure}")
        return failure.exit_code
    except (BrokenPipeError, ReaderLeft):
        # Whoever read our output has had enough (`| head`); the interpreter must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return int(code)
