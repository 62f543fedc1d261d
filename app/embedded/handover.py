"""What `up` is told and tells: the order to its preparing program, and the report of what runs."""

from dataclasses import dataclass, field

import msgspec


class Order(msgspec.Struct, frozen=True):
    """What to prepare. Secret: the address and the pepper."""

    database_url: str
    key_pepper: str
    tenant: str

    def __repr__(self) -> str:
        return f"Order(tenant={self.tenant!r})"


class Prepared(msgspec.Struct, frozen=True):
    """The keys minted just now, None where an earlier start did it; or why nothing could be prepared."""

    admin_key: str | None = None
    tenant_key: str | None = None
    refusal: str | None = None

    def __repr__(self) -> str:
        return f"Prepared(refusal={self.refusal!r})"


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
