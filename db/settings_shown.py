"""Settings as operators may see them: every variable with its value and where that comes from, secrets left out."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from db.settings import EnvSettings, documented_variables, is_secret


class Source(StrEnum):
    """Where a value comes from."""

    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


class ShownSetting(msgspec.Struct, frozen=True):
    """One variable. `value` is plain JSON, and None where it is a secret, set or not."""

    name: str
    value: Any
    secret: bool
    is_set: bool
    source: Source


def shown_settings(settings: EnvSettings, environ: Mapping[str, str]) -> tuple[ShownSetting, ...]:
    """Return the settings in force, read from `environ`, in the order in which they are declared."""
    fields = {
        field.validation_alias: name
        for name, field in type(settings).model_fields.items()
        if isinstance(field.validation_alias, str)
    }
    shown = []
    for variable, field in documented_variables(type(settings)):
        secret = is_secret(field)
        source = _source(variable, environ, secret=secret)
        shown.append(
            ShownSetting(
                name=variable,
                value=None if secret else _plain(getattr(settings, fields[variable])),
                secret=secret,
                is_set=source is not Source.DEFAULT,
                source=source,
            )
        )
    return tuple(shown)


def _source(variable: str, environ: Mapping[str, str], *, secret: bool) -> Source:
    if environ.get(variable, "").strip():
        return Source.ENVIRONMENT
    return Source.FILE if secret and environ.get(f"{variable}_FILE", "").strip() else Source.DEFAULT


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path | StrEnum) else value
