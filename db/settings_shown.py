"""Settings as operators may see them: every variable with its value and where that comes from, secrets left out."""

from typing import Any

import msgspec

from db.settings import EnvSettings, Source, documented_variables, is_secret


class ShownSetting(msgspec.Struct, frozen=True):
    """One variable. `value` is plain JSON, and None where it is a secret, set or not."""

    name: str
    value: Any
    secret: bool
    source: Source


def shown_settings(settings: EnvSettings) -> tuple[ShownSetting, ...]:
    """Return the settings in force, by name."""
    fields = {field.validation_alias: name for name, field in type(settings).model_fields.items()}
    values = settings.model_dump(mode="json")
    return tuple(
        ShownSetting(
            name=variable,
            value=None if is_secret(field) else values[fields[variable]],
            secret=is_secret(field),
            source=settings.source_of(variable),
        )
        for variable, field in sorted(documented_variables(type(settings)), key=lambda each: each[0])
    )
