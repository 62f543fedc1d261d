"""`/admin/v1/configuration`: the settings that the answering process runs with."""

from typing import Annotated, Any, Literal

from litestar import Controller, get
from msgspec import Meta

from app.admin.contract import Answered
from app.admin.handed import Admin
from app.settings import AppSettings
from db.settings import documented_variables, is_secret


class Setting(Answered):
    """One setting."""

    name: Annotated[str, Meta(description="Its variable.", examples=["GATEWAY_DRAIN_SECONDS"])]
    value: Annotated[
        Any, Meta(description="What is in force; null where nothing is, and for whatever holds a secret.")
    ]
    secret: Annotated[bool, Meta(description="Whether its value is kept to itself.")]
    source: Annotated[
        Literal["environment", "file", "default"],
        Meta(description="Its variable, the file that `<name>_FILE` names, or neither."),
    ]


class Configuration(Answered):
    """All settings of an app process, by name. Backends are at `/admin/v1/backends`."""

    settings: tuple[Setting, ...]


class ConfigurationController(Controller):
    """The settings."""

    path = "/configuration"
    tags = ("configuration",)

    @get(operation_id="getConfiguration", summary="Tell the settings in force and where each comes from")
    async def get_configuration(self, admin: Admin) -> Configuration:
        """Answer every setting; secrets are masked."""
        return configuration_of(admin.settings)


def configuration_of(settings: AppSettings) -> Configuration:
    """Return the settings as they are answered."""
    fields = {field.validation_alias: name for name, field in type(settings).model_fields.items()}
    values = settings.model_dump(mode="json")
    return Configuration(
        settings=tuple(
            Setting(
                name=variable,
                value=None if is_secret(field) else values[fields[variable]],
                secret=is_secret(field),
                source=settings.source_of(variable).value,
            )
            for variable, field in sorted(documented_variables(type(settings)), key=lambda each: each[0])
        )
    )
