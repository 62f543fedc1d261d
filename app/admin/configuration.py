"""`/admin/v1/configuration`: the settings that the answering process runs with."""

from typing import Annotated, Literal

from litestar import Controller, get
from msgspec import Meta

from app.admin.contract import Answered
from app.admin.handed import Admin
from app.settings import AppSettings
from db.settings_shown import shown_settings


class Setting(Answered):
    """One setting."""

    name: Annotated[str, Meta(description="Its variable.", examples=["GATEWAY_DRAIN_SECONDS"])]
    value: Annotated[
        bool | int | float | str | list[str] | None,
        Meta(description="What is in force; null where nothing is, and for whatever holds a secret."),
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
    return Configuration(
        settings=tuple(
            Setting(name=each.name, value=each.value, secret=each.secret, source=each.source.value)
            for each in shown_settings(settings)
        )
    )
