"""What `list-models` prints: the models of all backends, and the figures of the table that they were read from."""

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from domain.model_table import BackendState, HostedModel, ModelTable


class ModelLine(msgspec.Struct, frozen=True):
    """One model on one backend."""

    name: str
    size: int
    digest: str
    loaded: bool


class BackendModels(msgspec.Struct, frozen=True):
    """One backend and what it hosts."""

    name: str
    condition: str
    drained: bool
    error: str | None
    version: str | None
    polled_at: datetime | None
    last_ok_at: datetime | None
    models: tuple[ModelLine, ...]


class TableFigures(msgspec.Struct, frozen=True):
    """The model table itself. `entries`: pairs of backend and model.

    `version` and `bytes`, its size in Redis, are None where the admin API was asked, which does not tell them.
    """

    version: int | None
    written_at: datetime
    entries: int
    bytes: int | None


class ModelList(msgspec.Struct, frozen=True):
    """What `list-models --json` prints. `union_count`: different models over all backends."""

    backends: tuple[BackendModels, ...]
    union_count: int
    table: TableFigures


def model_list(table: "ModelTable", size_bytes: int) -> ModelList:
    """Return the model table as this command prints it; `size_bytes` is what it takes in Redis."""
    hosted = [model.name for backend in table.backends for model in backend.models]
    return ModelList(
        backends=tuple(_backend(state) for state in table.backends),
        union_count=len(set(hosted)),
        table=TableFigures(table.version, table.written_at, len(hosted), size_bytes),
    )


def _backend(state: "BackendState") -> BackendModels:
    return BackendModels(
        name=state.name,
        condition=state.condition.value,
        drained=state.drained,
        error=state.error,
        version=state.version,
        polled_at=state.polled_at,
        last_ok_at=state.last_ok_at,
        models=tuple(_model(model, state) for model in state.models),
    )


def _model(model: "HostedModel", state: "BackendState") -> ModelLine:
    return ModelLine(model.name, model.size, model.digest, model.name in state.loaded)
