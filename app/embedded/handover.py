"""What `up` is told and tells: the orders to its preparing program, and the report of what runs."""

from dataclasses import dataclass, field

import msgspec


class MigrateOrder(msgspec.Struct, frozen=True, tag="migrate"):
    """Bring that database to this release, and make the role of app and worker. The addresses are secret."""

    database_url: str
    app_database_url: str

    def __repr__(self) -> str:
        return "MigrateOrder(***)"


class Migrated(msgspec.Struct, frozen=True):
    """It is done, or why the database was left alone."""

    refusal: str | None = None


class MintOrder(msgspec.Struct, frozen=True, tag="mint"):
    """Mint the first keys unless they exist. The address and the pepper are secret."""

    database_url: str
    key_pepper: str
    tenant: str

    def __repr__(self) -> str:
        return f"MintOrder(tenant={self.tenant!r})"


class FirstKeys(msgspec.Struct, frozen=True):
    """The keys minted just now; None where an earlier start did it."""

    admin_key: str | None = None
    tenant_key: str | None = None

    def __repr__(self) -> str:
        return "FirstKeys(***)"


class BackendAddress(msgspec.Struct, frozen=True):
    """One backend as it is configured; never with its token."""

    name: str
    url: str


class Pids(msgspec.Struct, frozen=True):
    """The processes of a running stack; of the app and the worker all of them, parent first."""

    app: tuple[int, ...]
    worker: tuple[int, ...]
    postgres: int
    valkey: int


class Ready(msgspec.Struct, frozen=True):
    """What `up --json` prints. The keys are None when an earlier start minted them."""

    url: str
    admin_key: str | None
    tenant: str
    tenant_key: str | None
    database_url: str
    redis_url: str
    backends: tuple[BackendAddress, ...]
    pids: Pids

    def __repr__(self) -> str:
        return f"Ready(url={self.url!r})"


@dataclass(frozen=True)
class Report:
    """A stack that serves. `hosted` are the models by backend name, as discovery just saw them."""

    ready: Ready
    hosted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    backends_configured: bool = True
