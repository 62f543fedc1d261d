"""Settings that both processes share, and how every process reads its own.

Values come from one mapping given by the entry point, are checked as a whole and never change afterwards.
`.env.sample` documents every variable; a test holds the two together.
"""

import json
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from db.redis.sentinel import sentinel_address
from domain.backends import (
    BackendSpec,
    check_auth_header,
    check_auth_scheme,
    check_auth_token,
    check_base_url,
    check_unique_names,
    effective_backends,
)

_MAX_SECRET_FILE_BYTES = 1_048_576
_POSTGRES_SCHEMES = frozenset({"postgresql", "postgres", "postgresql+asyncpg"})
_REDIS_SCHEMES = frozenset({"redis", "rediss", "unix"})


class SettingsError(Exception):
    """The environment is unusable. The message is one sentence that names the variable, without secrets."""


class Source(StrEnum):
    """Where the value of a setting comes from."""

    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


class EnvSettings(BaseSettings):
    """Base of all settings: frozen, and never read from anything but the given mapping."""

    model_config = SettingsConfigDict(frozen=True, hide_input_in_errors=True, extra="forbid")

    _sources: dict[str, Source] = PrivateAttr(default_factory=dict)

    def source_of(self, name: str) -> Source:
        """Return where the value of the variable of that name comes from."""
        return self._sources.get(name, Source.DEFAULT)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is the library's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read from the mapping given to `load_settings` and from nowhere else."""
        return (init_settings,)


def _parse_backends(text: object) -> object:
    if not isinstance(text, str):
        return text
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    if not isinstance(parsed, list):
        raise ValueError('must be a JSON list like [{"name": "a", "base_url": "http://127.0.0.1:11434"}]')  # noqa: TRY004 - pydantic wants ValueError
    return parsed


def split_commas(text: object) -> object:
    """Turn `a, b` into a tuple of its non-empty parts; anything but text is returned unchanged."""
    if not isinstance(text, str):
        return text
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _check_database_url(url: SecretStr) -> SecretStr:
    _check_store_url(url, schemes=_POSTGRES_SCHEMES, example="postgresql://user:password@host:5432/name")
    return url


def _check_redis_url(url: SecretStr) -> SecretStr:
    try:
        behind_sentinels = sentinel_address(url.get_secret_value()) is not None
    except ValueError:
        raise ValueError(
            "must be an address like redis+sentinel://:password@host:26379,host:26379/service/0"
        ) from None
    if behind_sentinels:
        return url
    _check_store_url(url, schemes=_REDIS_SCHEMES, example="redis://:password@host:6379/0")
    return url


def _check_store_url(url: SecretStr, *, schemes: frozenset[str], example: str) -> None:
    try:
        parts = urlsplit(url.get_secret_value())
        usable = parts.scheme in schemes and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"must be an address like {example}")


class BackendSettings(EnvSettings):
    """Where the Ollama servers are. `backends()` is what the rest of the program asks for."""

    ollama_backends: Annotated[
        tuple[BackendSpec, ...],
        BeforeValidator(_parse_backends),
        AfterValidator(check_unique_names),
        Field(validation_alias="OLLAMA_BACKENDS", json_schema_extra={"secret": True}),  # a flag, no password  # nosec B105
    ] = ()
    ollama_base_url: Annotated[
        str, AfterValidator(check_base_url), Field(validation_alias="OLLAMA_BASE_URL")
    ] = "http://127.0.0.1:11434"
    ollama_auth_token: Annotated[
        SecretStr | None,
        AfterValidator(lambda token: token and check_auth_token(token)),
        Field(validation_alias="OLLAMA_AUTH_TOKEN"),
    ] = None
    ollama_auth_header: Annotated[
        str, AfterValidator(check_auth_header), Field(validation_alias="OLLAMA_AUTH_HEADER")
    ] = "Authorization"
    ollama_auth_scheme: Annotated[
        str | None,
        AfterValidator(lambda scheme: scheme and check_auth_scheme(scheme)),
        Field(validation_alias="OLLAMA_AUTH_SCHEME"),
    ] = None

    def backends(self) -> tuple[BackendSpec, ...]:
        """Return the backends in the order of their priority; never empty."""
        return effective_backends(
            self.ollama_backends,
            base_url=self.ollama_base_url,
            auth_token=self.ollama_auth_token,
            auth_header=self.ollama_auth_header,
            auth_scheme=self.ollama_auth_scheme,
        )


class DatabaseSettings(EnvSettings):
    """Where Postgres is."""

    database_url: Annotated[
        SecretStr, AfterValidator(_check_database_url), Field(validation_alias="DATABASE_URL")
    ]
    database_direct_url: Annotated[
        SecretStr | None,
        AfterValidator(lambda url: url and _check_database_url(url)),
        Field(validation_alias="DATABASE_DIRECT_URL"),
    ] = None

    def direct_url(self) -> SecretStr:
        """Return the address for LISTEN and migrations, which a connection pooler in between would break."""
        return self.database_direct_url or self.database_url


class RedisSettings(EnvSettings):
    """Where Redis is."""

    redis_url: Annotated[SecretStr, AfterValidator(_check_redis_url), Field(validation_alias="REDIS_URL")]


def _check_mirror(path: Path | None) -> Path | None:
    if path is not None and not path.is_absolute():
        # Two programs started in different directories would keep two halves.
        raise ValueError("must be an absolute path")
    return path


class MirrorSettings(EnvSettings):
    """Where revocations are copied to, if anywhere."""

    revocation_mirror: Annotated[
        Path | None, AfterValidator(_check_mirror), Field(validation_alias="GATEWAY_REVOCATION_MIRROR")
    ] = None


class StoreSettings(DatabaseSettings, RedisSettings):
    """Where Postgres and Redis are, and how long one question to Postgres may take."""

    postgres_timeout_s: Annotated[
        float, Field(validation_alias="GATEWAY_POSTGRES_TIMEOUT_SECONDS", gt=0, le=60)
    ] = 2.0


class LogSettings(EnvSettings):
    """What the log holds and how it looks."""

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        BeforeValidator(lambda text: text.lower() if isinstance(text, str) else text),
        Field(validation_alias="GATEWAY_LOG_LEVEL"),
    ] = "info"
    log_format: Annotated[Literal["json", "console"], Field(validation_alias="GATEWAY_LOG_FORMAT")] = "json"


class SharedSettings(BackendSettings, StoreSettings, LogSettings):
    """What `app` and `worker` both need."""

    exit_with_parent: Annotated[bool, Field(validation_alias="GATEWAY_EXIT_WITH_PARENT")] = False


T = TypeVar("T", bound=EnvSettings)


def load_settings(
    kind: type[T], environ: Mapping[str, str], *, defaults: Mapping[str, str] | None = None
) -> T:
    """Return the checked settings of one kind from a mapping of variables.

    A blank variable counts as unset. For every variable that holds a secret, `<NAME>_FILE` may name a file
    whose content is the value. `defaults` are values that depend on the machine, where nothing else is set.

    Raises
    ------
    SettingsError
        A value is missing, wrong or contradicts another.
    """
    found = _read(kind, environ)
    if found.wrong:
        raise SettingsError(next(iter(found.wrong.values())))
    try:
        settings = kind(**{**(defaults or {}), **found.values})
    except ValidationError as exc:
        # The cause is dropped on purpose: its context may hold the rejected text.
        raise SettingsError(next(iter(_sentences(exc).values()))) from None
    settings._sources.update(found.sources)  # noqa: SLF001 - of the class above
    return settings


def settings_errors(
    kind: type[EnvSettings], environ: Mapping[str, str], *, defaults: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Return everything that `load_settings` could refuse, one sentence each, in the order of the variables.

    What contradicts something else is only found once every single value can be.
    """
    found = _read(kind, environ)
    wrong = found.wrong
    try:
        kind(**{**(defaults or {}), **found.values})
    except ValidationError as exc:
        wrong = _sentences(exc) | wrong
    return tuple(wrong.values())


class _Read(NamedTuple):
    """By variable: what is set, where that comes from, and what is wrong with where it should come from."""

    values: dict[str, str]
    sources: dict[str, Source]
    wrong: dict[str, str]


def _read(kind: type[EnvSettings], environ: Mapping[str, str]) -> _Read:
    found = _Read({}, {}, {})
    for name, field in documented_variables(kind):
        value = environ.get(name, "").strip()
        source = Source.ENVIRONMENT
        if is_secret(field) and (file := environ.get(f"{name}_FILE", "").strip()):
            source = Source.FILE
            try:
                value = _value_or_file(name, value, file)
            except SettingsError as refusal:
                found.wrong[name] = str(refusal)
                continue
        if value:
            found.values[name], found.sources[name] = value, source
    return found


def documented_variables(kind: type[EnvSettings]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield the variables a kind of settings reads (without their `_FILE` twins) and their fields."""
    for field in kind.model_fields.values():
        if isinstance(field.validation_alias, str):
            yield field.validation_alias, field


def is_secret(field: FieldInfo) -> bool:
    """Say whether a variable holds a secret and so may come from a file."""
    extra = field.json_schema_extra
    marked = isinstance(extra, dict) and extra.get("secret") is True
    return marked or field.annotation is SecretStr or SecretStr in get_args(field.annotation)


def _value_or_file(name: str, value: str, file: str) -> str:
    if value:
        raise SettingsError(f"{name} and {name}_FILE are both set; keep one of them.")
    try:
        with Path(file).open(encoding="utf-8") as source:
            text = source.read(_MAX_SECRET_FILE_BYTES).strip()
    except (OSError, ValueError):
        # Neither the path nor the reason: somebody may have put the secret itself here.
        raise SettingsError(f"{name}_FILE must name a readable text file.") from None
    if not text:
        raise SettingsError(f"{name}_FILE names an empty file.")
    return text


_PREDICATES = {
    "missing": "is not set; see .env.sample",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "extra_forbidden": "is not a known field",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be one of {expected}",
    "enum": "must be one of {expected}",
}


def _sentences(refusal: ValidationError) -> dict[str, str]:
    """Return what is wrong, one sentence for each value, by the place of the value."""
    sentences: dict[str, str] = {}
    for error in refusal.errors(include_url=False, include_input=False):
        sentences.setdefault(_subject(error["loc"]), _sentence(error))
    return sentences


def _sentence(error: ErrorDetails) -> str:
    subject = _subject(error["loc"])
    context = error.get("ctx", {})
    if error["type"] == "value_error":
        predicate = str(context["error"])
    elif error["type"] == "missing" and len(error["loc"]) > 1:
        predicate = "is missing"
    else:
        predicate = _PREDICATES.get(error["type"], "has the wrong form").format(**context)
    return f"{subject} {predicate}." if subject else f"{predicate}."


def _subject(location: tuple[int | str, ...]) -> str:
    subject = ""
    for part in location:
        if isinstance(part, int):
            subject += f"[{part}]"
        elif not part.isascii() or not part.replace("_", "").isalnum() or len(part) > 40:  # noqa: PLR2004
            # Only what looks like a name is repeated: a misplaced secret could stand here.
            subject += ".?"
        else:
            subject += f".{part}" if subject else part
    return subject
