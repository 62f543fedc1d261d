"""`list-models`: what the backends host, as discovery last saw it."""

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from app.cli.failure import CommandFailed
from app.cli.model_table import read_model_table
from app.cli.options import COMMON, Common
from app.cli.output import NOTHING, Table, count_of, moment, show_json, show_table
from app.cli.place import environment, load

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
    error: str | None
    version: str | None
    polled_at: datetime | None
    last_ok_at: datetime | None
    models: tuple[ModelLine, ...]


class TableFigures(msgspec.Struct, frozen=True):
    """The model table itself. `entries`: pairs of backend and model. `bytes`: its size in Redis."""

    version: int
    written_at: datetime
    entries: int
    bytes: int


class ModelList(msgspec.Struct, frozen=True):
    """What `list-models --json` prints. `union_count`: different models over all backends."""

    backends: tuple[BackendModels, ...]
    union_count: int
    table: TableFigures


async def list_models(*, common: Common = COMMON) -> None:
    """List the models of all backends, in the order in which backends are used.

    Shows the gateway's model table, which the worker refreshes all the time; `probe-ollama` asks the backends
    themselves, and `models list` shows who may use what.

    Example: `neuronetz-gateway list-models`
    """
    from db.settings import RedisSettings

    settings = load(RedisSettings, environment(common))
    table, size = await read_model_table(settings)
    if table is None:
        raise CommandFailed(
            "There is no model table yet: the worker writes it within seconds of its start; does it run?"
        )
    listed = model_list(table, size)
    if common.json:
        show_json(listed)
        return
    show_table(
        Table(
            ("backend", "state", "model", "size", "loaded"),
            [row for backend in listed.backends for row in _rows(backend)],
            numbers=frozenset({3}),
        )
    )
    figures = listed.table
    print(
        f"{count_of(listed.union_count, 'different model')} on {count_of(len(listed.backends), 'backend')}."
        f" Model table in Redis: {figures.entries:,} {'entry' if figures.entries == 1 else 'entries'},"
        f" {count_of(figures.bytes, 'byte')}, written {moment(figures.written_at)} UTC."
    )


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
        error=state.error,
        version=state.version,
        polled_at=state.polled_at,
        last_ok_at=state.last_ok_at,
        models=tuple(_model(model, state) for model in state.models),
    )


def _model(model: "HostedModel", state: "BackendState") -> ModelLine:
    return ModelLine(model.name, model.size, model.digest, model.name in state.loaded)


def _rows(backend: BackendModels) -> list[tuple[str, ...]]:
    state = backend.condition if backend.error is None else f"{backend.condition} ({backend.error})"
    rows = [
        (model.name, _gigabytes(model.size), "yes" if model.loaded else "") for model in backend.models
    ] or [(NOTHING, NOTHING, "")]
    # Only the first line of a backend names it: the group shows at a glance.
    heads = [(backend.name, state)] + [("", "")] * (len(rows) - 1)
    return [head + row for head, row in zip(heads, rows, strict=True)]


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
