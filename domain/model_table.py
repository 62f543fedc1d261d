"""The model -> backends table as discovery last saw it: one versioned snapshot, written by the worker only."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec

_Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class BackendCondition(StrEnum):
    """What the last polls of a backend say.

    ok: the last poll succeeded. stale: it failed, the models of an earlier poll still count.
    silent: failing for longer than the stale time; its models left the lists but are tried last.
    unknown: never answered.
    """

    OK = "ok"
    STALE = "stale"
    SILENT = "silent"
    UNKNOWN = "unknown"


class HostedModel(msgspec.Struct, frozen=True):
    """One model on one backend.

    `name` is the canonical display form (`llama3.2:latest`); `details`, `capabilities` are Ollama's own JSON.
    `modified_at` is Ollama's RFC 3339 text, kept verbatim because lists repeat it.
    """

    name: str
    digest: str
    size: int
    modified_at: str
    details: dict[str, object] = {}
    capabilities: tuple[str, ...] = ()


class LoadedModel(msgspec.Struct, frozen=True):
    """One model in a backend's memory, as `/api/ps` tells it; sizes in bytes.

    `expires_at` is RFC 3339 text: in the past while the model is busy, centuries away when it is pinned.
    """

    name: str
    size: _Size = 0
    size_vram: _Size = 0
    context_length: _Size | None = None
    expires_at: str = ""


class BackendState(msgspec.Struct, frozen=True):
    """One backend as of the last poll. `error` is a class of failure for operators, never upstream text.

    `last_ok_at` is when it was asked what it last answered well.
    `drained`: an operator has taken it out of service. It is polled on, and gets no new requests.
    """

    name: str
    config_digest: str
    condition: BackendCondition
    models: tuple[HostedModel, ...] = ()
    version: str | None = None
    last_ok_at: datetime | None = None
    polled_at: datetime | None = None
    error: str | None = None
    in_memory: tuple[LoadedModel, ...] = ()
    drained: bool = False

    @property
    def loaded(self) -> tuple[str, ...]:
        """The names of the models in memory."""
        return tuple(model.name for model in self.in_memory)


class ModelTable(msgspec.Struct, frozen=True):
    """One unchanging read of the table. `backends` keeps the operator's order, which is the priority."""

    version: int
    written_at: datetime
    backends: tuple[BackendState, ...] = ()
