"""The page of all settings: `python -m tests.support.configuration_page` writes it from the settings and `.env.sample`.

What a variable means is said once, in the sample; its default, its bounds and who reads it are the code's.
"""

import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from app.cli.settings import AdminKeySettings, MigrateSettings
from app.settings import AppSettings
from db.settings import EnvSettings, documented_variables, is_secret
from tests.support.repository import ROOT, text_of
from worker.settings import WorkerSettings

PAGE: Final = ROOT / "docs/configuration.md"
READERS: Final[dict[str, type[EnvSettings]]] = {
    "app": AppSettings,
    "worker": WorkerSettings,
    "`migrate`": MigrateSettings,
    "commands with `--url`": AdminKeySettings,
}

_HEAD: Final = """# Settings

Every setting is an environment variable, read once, at the start. A blank variable counts as unset. Where a secret is
wanted, `NAME_FILE=/path/to/a/file` may name a file whose content is the value. A value that cannot be used ends the
start with one sentence that names it; `neuronetz-gateway config check` tells all of them at once, `config show` what is
in force.

This page is written by `just docs-settings` from the settings and [.env.sample](../.env.sample).
"""
_SECTION: Final = re.compile(r"# --- (.+?) -+")
_VARIABLE: Final = re.compile(r"#?([A-Z][A-Z0-9_]+)=(.*)")
_BOUNDS: Final = {Ge: "at least {}", Gt: "more than {}", Le: "at most {}", Lt: "less than {}"}


def _readers(name: str) -> dict[str, FieldInfo]:
    found = {reader: dict(documented_variables(kind)).get(name) for reader, kind in READERS.items()}
    return {reader: field for reader, field in found.items() if field is not None}


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(each.value if isinstance(each, StrEnum) else str(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _default(name: str, readers: dict[str, FieldInfo]) -> str:
    if name == "GATEWAY_JOURNAL_DIR":
        return "depends on the machine, as told above"
    field = next(iter(readers.values()))
    if field.is_required():
        return "none, it is required"
    return f"`{_told(field.default)}`" if field.default not in (None, ()) else "none"


def _allowed(field: FieldInfo) -> Iterator[str]:
    if field.annotation is bool:
        yield "`true` or `false`"
    if get_origin(field.annotation) is Literal:
        yield "one of " + ", ".join(f"`{each}`" for each in get_args(field.annotation))
    for rule in field.metadata:
        if isinstance(rule, Ge | Gt | Le | Lt):
            bound = next(getattr(rule, side) for side in ("ge", "gt", "le", "lt") if hasattr(rule, side))
            yield _BOUNDS[type(rule)].format(_told(bound))


def _entry(name: str, shown: str, comments: list[str]) -> Iterator[str]:
    readers = _readers(name)
    yield f"\n### `{name}`\n"
    for line in comments:
        yield re.sub(r"^\(secret\) ", "", re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", line))
    yield ""
    if not readers:
        yield f"- Read by the compose files alone{f'; for example `{shown}`' if shown else ''}."
        return
    field = next(iter(readers.values()))
    if is_secret(field):
        yield f"- A secret: `{name}_FILE` works too."
    yield f"- Default: {_default(name, readers)}."
    if allowed := list(_allowed(field)):
        yield f"- Allowed: {', '.join(allowed)}."
    yield f"- Read by: {', '.join(readers)}."


def page() -> str:
    """Return the page as it should be."""
    lines, comments = [_HEAD.rstrip()], list[str]()
    for line in text_of(".env.sample").splitlines():
        if section := _SECTION.fullmatch(line):
            lines.append(f"\n## {section[1]}")
            comments = []
        elif variable := _VARIABLE.fullmatch(line):
            lines += _entry(variable[1], variable[2], comments)
            comments = []
        elif line.startswith("# "):
            comments.append(line.removeprefix("# "))
        else:
            comments = []
    return "\n".join(lines) + "\n"


def main(path: Path = PAGE) -> None:
    """Write the page."""
    path.write_text(page())


if __name__ == "__main__":
    main()
