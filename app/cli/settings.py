"""What single commands read beside the settings of the processes."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from app.settings import JournalSettings, PepperSettings
from db.app_role import AppRole
from db.settings import DatabaseSettings, EnvSettings, MirrorSettings, RedisSettings
from domain.first_key import FirstKey


class KeyMintingSettings(DatabaseSettings, PepperSettings):
    """What `keys create` reads."""


def _check_first_key(line: SecretStr) -> SecretStr:
    try:
        FirstKey.parse(line.get_secret_value())
    except ValueError as exc:
        raise ValueError(f"is unusable: {exc}") from None
    return line


def _check_app_url(url: SecretStr) -> SecretStr:
    AppRole.parse(url.get_secret_value())
    return url


class MigrateSettings(DatabaseSettings):
    """What `migrate` reads. The digest of the first admin key is what `init` wrote."""

    app_database_url: Annotated[
        SecretStr | None,
        AfterValidator(lambda url: url and _check_app_url(url)),
        Field(validation_alias="GATEWAY_APP_DATABASE_URL"),
    ] = None
    admin_key_digest: Annotated[
        SecretStr | None,
        AfterValidator(lambda line: line and _check_first_key(line)),
        Field(validation_alias="GATEWAY_ADMIN_KEY_DIGEST"),
    ] = None

    def app_role(self) -> AppRole | None:
        """Return the role that app and worker log in with, None if it is to stay as it is."""
        url = self.app_database_url
        return None if url is None else AppRole.parse(url.get_secret_value())


class RestoreFenceSettings(DatabaseSettings, RedisSettings, MirrorSettings):
    """What `restore-fence` reads."""


class ReconcileSettings(DatabaseSettings, RedisSettings, JournalSettings):
    """What `usage reconcile` reads."""


class AdminKeySettings(EnvSettings):
    """What commands with `--url` read."""

    admin_key: Annotated[SecretStr, Field(validation_alias="GATEWAY_ADMIN_KEY")]
