"""What the HTTP process needs beside the shared settings."""

import re
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, NamedTuple, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from db.settings import EnvSettings, SharedSettings, load_settings, split_commas
from domain.backends import BackendSpec
from domain.keys import PepperRing

_MIB = 1_048_576
_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class Surface(StrEnum):
    """A part of the HTTP interface that a process may leave out."""

    TENANT = "tenant"
    ADMIN = "admin"
    DOCS = "docs"
    OPS = "ops"


def _check_proxies(proxies: tuple[str, ...]) -> tuple[str, ...]:
    for proxy in proxies:
        if proxy == "*":
            raise ValueError("must not trust everybody: with * any client could forge its address")
        if not _is_network(proxy) and not _HOST_NAME.fullmatch(proxy):
            raise ValueError("must list host names, addresses or networks, separated by commas")
    return proxies


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _check_surfaces(surfaces: tuple[Surface, ...]) -> tuple[Surface, ...]:
    if not surfaces:
        raise ValueError("must name at least one of tenant, admin, docs, ops")
    return tuple(dict.fromkeys(surfaces))


def _check_fields(names: tuple[str, ...]) -> tuple[str, ...]:
    if not all(_FIELD_NAME.fullmatch(name) for name in names):
        raise ValueError("must list JSON field names, separated by commas")
    return tuple(dict.fromkeys(names))


def _check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    for origin in origins:
        if "*" in origin or origin == "null":
            raise ValueError("must name origins one by one: * and null would let any page read answers")
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(
                "must list origins as browsers write them, such as https://chat.example.org, separated by commas"
            )
    return tuple(dict.fromkeys(origins))


def _check_pepper(pepper: SecretStr) -> SecretStr:
    try:
        PepperRing.parse(pepper.get_secret_value())
    except ValueError as exc:
        raise ValueError(f"is unusable: {exc}") from None
    return pepper


def _check_directory(path: Path) -> Path:
    if not path.is_absolute():
        # A process started elsewhere would not find the records that an earlier one left open.
        raise ValueError("must be an absolute path")
    return path


class HttpSettings(SharedSettings):
    """How the process listens, and what its callers may do to it."""

    host: Annotated[str, Field(validation_alias="GATEWAY_HOST")] = "127.0.0.1"
    port: Annotated[int, Field(validation_alias="GATEWAY_PORT", ge=0, le=65_535)] = 8000
    workers: Annotated[int, Field(validation_alias="GATEWAY_WORKERS", ge=1, le=256)] = 1
    surfaces: Annotated[
        tuple[Surface, ...],
        BeforeValidator(split_commas),
        AfterValidator(_check_surfaces),
        Field(validation_alias="GATEWAY_SURFACES"),
    ] = tuple(Surface)
    docs_public: Annotated[bool, Field(validation_alias="GATEWAY_DOCS_PUBLIC")] = False
    trusted_proxies: Annotated[
        tuple[str, ...],
        BeforeValidator(split_commas),
        AfterValidator(_check_proxies),
        Field(validation_alias="GATEWAY_TRUSTED_PROXIES"),
    ] = ("127.0.0.1", "nginx-proxy")
    path_keys: Annotated[bool, Field(validation_alias="GATEWAY_PATH_KEYS")] = False
    cors_origins: Annotated[
        tuple[str, ...],
        BeforeValidator(split_commas),
        AfterValidator(_check_origins),
        Field(validation_alias="GATEWAY_CORS_ORIGINS"),
    ] = ()
    metrics_token: Annotated[SecretStr | None, Field(validation_alias="GATEWAY_METRICS_TOKEN")] = None
    max_connections: Annotated[int, Field(validation_alias="GATEWAY_MAX_CONNECTIONS", ge=1, le=1_000_000)] = (
        4096
    )
    max_body_bytes: Annotated[
        int, Field(validation_alias="GATEWAY_MAX_BODY_BYTES", ge=1024, le=1024 * _MIB)
    ] = 32 * _MIB
    max_buffered_bytes: Annotated[
        int, Field(validation_alias="GATEWAY_MAX_BUFFERED_BYTES", ge=1024, le=1_048_576 * _MIB)
    ] = 256 * _MIB
    body_timeout_s: Annotated[
        float, Field(validation_alias="GATEWAY_BODY_TIMEOUT_SECONDS", gt=0, le=3600)
    ] = 10.0
    write_timeout_s: Annotated[
        float, Field(validation_alias="GATEWAY_WRITE_TIMEOUT_SECONDS", gt=0, le=3600)
    ] = 30.0
    heartbeat_s: Annotated[float, Field(validation_alias="GATEWAY_HEARTBEAT_SECONDS", ge=0.1, le=3600)] = 15.0
    drain_s: Annotated[float, Field(validation_alias="GATEWAY_DRAIN_SECONDS", ge=0, le=3600)] = 60.0

    @property
    def knows_operators(self) -> bool:
        """Whether this process proves admin keys: it serves operators, or documents that only they may read."""
        return Surface.ADMIN in self.surfaces or (Surface.DOCS in self.surfaces and not self.docs_public)

    @model_validator(mode="after")
    def _check_room(self) -> Self:
        if self.max_buffered_bytes < self.max_body_bytes:
            # A body of the largest size would be refused even by an idle process.
            raise ValueError("GATEWAY_MAX_BUFFERED_BYTES must not be smaller than GATEWAY_MAX_BODY_BYTES")
        return self


class PepperSettings(EnvSettings):
    """What key digests are made with."""

    key_pepper: Annotated[
        SecretStr, AfterValidator(_check_pepper), Field(validation_alias="GATEWAY_KEY_PEPPER")
    ]


class JournalSettings(EnvSettings):
    """Where the app processes of this machine keep their journals."""

    journal_dir: Annotated[
        Path, AfterValidator(_check_directory), Field(validation_alias="GATEWAY_JOURNAL_DIR")
    ]


class RelaySettings(SharedSettings, PepperSettings, JournalSettings):
    """What a request may cost on its way to a backend and into the ledger."""

    redis_timeout_ms: Annotated[int, Field(validation_alias="GATEWAY_REDIS_TIMEOUT_MS", ge=1, le=60_000)] = 50
    connect_timeout_s: Annotated[
        float, Field(validation_alias="GATEWAY_CONNECT_TIMEOUT_SECONDS", gt=0, le=60)
    ] = 2.0
    first_byte_timeout_s: Annotated[
        float, Field(validation_alias="GATEWAY_FIRST_BYTE_TIMEOUT_SECONDS", gt=0, le=3600)
    ] = 600.0
    idle_timeout_s: Annotated[
        float, Field(validation_alias="GATEWAY_IDLE_TIMEOUT_SECONDS", gt=0, le=3600)
    ] = 300.0
    extra_request_fields: Annotated[
        tuple[str, ...],
        BeforeValidator(split_commas),
        AfterValidator(_check_fields),
        Field(validation_alias="GATEWAY_EXTRA_REQUEST_FIELDS"),
    ] = ()
    default_output_cap_tokens: Annotated[
        int, Field(validation_alias="GATEWAY_DEFAULT_OUTPUT_CAP_TOKENS", ge=1, le=10_000_000)
    ] = 4096
    queue_most_waiting: Annotated[int, Field(validation_alias="GATEWAY_QUEUE_MAX_WAITING", ge=0, le=1000)] = (
        100
    )
    queue_longest_wait_s: Annotated[
        float, Field(validation_alias="GATEWAY_QUEUE_MAX_WAIT_SECONDS", gt=0, le=3600)
    ] = 60.0
    image_tokens: Annotated[int, Field(validation_alias="GATEWAY_IMAGE_TOKENS", ge=0, le=10_000_000)] = 4096
    journal_bytes: Annotated[
        int, Field(validation_alias="GATEWAY_JOURNAL_BYTES", ge=_MIB, le=65_536 * _MIB)
    ] = 64 * _MIB
    usage_stream_max_records: Annotated[
        int, Field(validation_alias="GATEWAY_USAGE_STREAM_MAX_RECORDS", ge=1, le=100_000_000)
    ] = 100_000


class AppSettings(HttpSettings, RelaySettings):
    """Everything the HTTP process reads."""

    def deadlines_of(self, backend: BackendSpec) -> "BackendDeadlines":
        """Return the deadlines in force for one backend."""
        own = backend.deadlines
        return BackendDeadlines(
            connect_s=self.connect_timeout_s if own.connect_s is None else own.connect_s,
            first_byte_s=self.first_byte_timeout_s if own.first_byte_s is None else own.first_byte_s,
            idle_s=self.idle_timeout_s if own.idle_s is None else own.idle_s,
        )

    @model_validator(mode="after")
    def _check_deadlines(self) -> Self:
        if self.first_byte_timeout_s < self.connect_timeout_s:
            raise ValueError(
                "GATEWAY_FIRST_BYTE_TIMEOUT_SECONDS must not be shorter than GATEWAY_CONNECT_TIMEOUT_SECONDS"
            )
        return self


class BackendDeadlines(NamedTuple):
    """How long one backend may take, in seconds: its own word, else the process's."""

    connect_s: float
    first_byte_s: float
    idle_s: float


def load_app_settings(environ: Mapping[str, str]) -> AppSettings:
    """Return the settings of the HTTP process.

    Raises
    ------
    SettingsError
        A value is missing, wrong or contradicts another.
    """
    return load_settings(
        AppSettings, environ, defaults={"GATEWAY_JOURNAL_DIR": _default_journal_dir(environ)}
    )


def with_journal_dir(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are set, and where journals are kept unless they say so."""
    set_ones = {name: value for name, value in environ.items() if value.strip()}
    return {"GATEWAY_JOURNAL_DIR": _default_journal_dir(environ), **set_ones}


def _default_journal_dir(environ: Mapping[str, str]) -> str:
    return str(default_state_dir(environ) / "journal")


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """Return where state is kept unless told otherwise: below XDG_STATE_HOME, else the home directory."""
    base = environ.get("XDG_STATE_HOME", "").strip()
    # The XDG rules say that a relative path is to be ignored.
    if not base.startswith("/"):
        home = environ.get("HOME", "").strip() or "/var/lib"
        base = f"{home}/.local/state"
    return Path(base) / "neuronetz-gateway"
