"""`config`: whether the settings can be used, and what they are."""

import os
import subprocess
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from cyclopts import App

from app.cli.control import address_meant
from app.cli.failure import BAD_INPUT, CommandFailed, InputRefused
from app.cli.options import COMMON, LOCAL, Common, Local
from app.cli.output import NOTHING, Table, count_of, say, show_json, show_table
from app.cli.place import environment, find_running, names_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from db.settings_shown import ShownSetting

app = App(
    name="config",
    help="""Check and show the settings of app and worker.

Example: `neuronetz-gateway config check`
""",
)

MASK: Final = "***"
_PREFIXES: Final = ("GATEWAY_", "OLLAMA_", "DATABASE_", "REDIS_", "MODEL_DISCOVERY_")
_LIKELY: Final = 0.85
_WORKER_TIMEOUT_S: Final = 60.0


@app.command
def check(*, common: Local = LOCAL) -> int:
    """Check all settings as the start of app and worker would, and tell everything that is wrong at once.

    Connects to nothing; `doctor` looks further. Exits with 2 if a setting cannot be used.

    Example: `neuronetz-gateway config check --json`
    """
    environ = _environ(common)
    worker = _worker(environ)
    found = _errors(environ, worker)
    unknown = dict(_misspelt(environ, worker))
    if common.json:
        show_json(
            {
                "ok": not found,
                "errors": [{"message": message, "processes": of} for message, of in found.items()],
                "misspelt": unknown,
            }
        )
        return BAD_INPUT if found else 0
    for name, likely in unknown.items():
        say(f"{name} is no setting and changes nothing; did you mean {likely}?")
    for message, of in found.items():
        print(f"{message} ({', '.join(of)})")
    if found:
        say(f"{count_of(len(found), 'setting')} cannot be used.")
        return BAD_INPUT
    print("All settings can be used.")
    return 0


@app.command
async def show(*, common: Common = COMMON) -> None:
    """Show every setting in force, where it comes from, and which process reads it. Secrets stay hidden.

    With --url, those of the app process that answers.

    Example: `neuronetz-gateway config show`
    """
    url = address_meant(common)
    shown = _here(common) if url is None else await _elsewhere(url, common.admin_key_file)
    if common.json:
        show_json({"settings": shown})
        return
    headings = ("variable", "value", "from", "read by")
    show_table(Table(headings, [_row(each) for each in shown]))


def _here(common: Common) -> list[dict[str, Any]]:
    from app.settings import load_app_settings
    from db.settings_shown import shown_settings

    environ = _environ(common)
    worker = _worker(environ)
    found = _errors(environ, worker)
    if found:
        more = f" ({len(found) - 1} more: `{common.command('config check')}`)" if len(found) > 1 else ""
        raise InputRefused(f"{next(iter(found))}{more}")
    of_app = shown_settings(load_app_settings(environ))
    by_name: dict[str, tuple[dict[str, Any], list[str]]] = {}
    plain = [(each, "app") for each in map(_plain, of_app)]
    plain += [(each, "worker") for each in worker["settings"]]
    for each, process in plain:
        by_name.setdefault(each["name"], (each, []))[1].append(process)
    return [{**each, "processes": of} for _, (each, of) in sorted(by_name.items())]


async def _elsewhere(url: str, admin_key_file: "Path | None") -> list[dict[str, Any]]:
    from app.cli.control.remote import remote_control_plane

    async with remote_control_plane(url, admin_key_file) as control:
        return [{**_plain(each), "processes": ["app"]} for each in await control.settings()]


def _environ(common: Local) -> Mapping[str, str]:
    """Return the settings meant; unlike elsewhere they may be as incomplete as they are."""
    if common.state_dir is not None:
        return environment(common)
    if names_database(os.environ):
        return os.environ
    return find_running(None) or os.environ


def _errors(environ: Mapping[str, str], worker: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return everything that is wrong, and which processes mind."""
    from app.settings import AppSettings, with_journal_dir
    from db.settings import settings_errors

    found: dict[str, list[str]] = {}
    for message in settings_errors(AppSettings, with_journal_dir(environ)):
        found.setdefault(message, []).append("app")
    for message in worker["errors"]:
        found.setdefault(message, []).append("worker")
    return found


def _worker(environ: Mapping[str, str]) -> dict[str, Any]:
    """Ask the worker about its settings: app and worker share no code, so it is a process of its own."""
    import msgspec

    from app.embedded.environment import neutral_environment

    told = subprocess.run(
        (sys.executable, "-m", "worker.settings_report"),
        env={**neutral_environment(os.environ), **environ},
        capture_output=True,
        timeout=_WORKER_TIMEOUT_S,
        check=False,
    )
    try:
        report: dict[str, Any] = msgspec.json.decode(told.stdout)
    except msgspec.MsgspecError:
        raise CommandFailed(
            "The worker's settings could not be checked: `python -m worker.settings_report` fails."
        ) from None
    return report


def _misspelt(environ: Mapping[str, str], worker: Mapping[str, Any]) -> "Iterator[tuple[str, str]]":
    """Yield variables that nothing reads, with the one that was likely meant."""
    from app.cli.settings import AdminKeySettings, MigrateSettings
    from app.settings import AppSettings
    from db.settings import documented_variables, is_secret

    known: set[str] = set(worker["variables"])
    for kind in (AppSettings, MigrateSettings, AdminKeySettings):
        for name, field in documented_variables(kind):
            known |= {name, f"{name}_FILE"} if is_secret(field) else {name}
    for name in sorted(environ):
        if name.startswith(_PREFIXES) and name not in known:
            likely = get_close_matches(name, known, n=1, cutoff=_LIKELY)
            if likely:
                yield name, likely[0]


def _plain(setting: "ShownSetting") -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(setting)
    return plain


def _row(setting: Mapping[str, Any]) -> tuple[str, ...]:
    hidden = NOTHING if setting["source"] == "default" else MASK
    value = hidden if setting["secret"] else _told(setting["value"])
    return setting["name"], value, setting["source"], ", ".join(setting["processes"])


def _told(value: Any) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value)) or NOTHING
    return f"{value:g}" if isinstance(value, float) else str(value)
