"""`list-models`: what the backends host, as discovery last saw it."""

from typing import TYPE_CHECKING

from app.cli.control import control_plane
from app.cli.options import COMMON, Common
from app.cli.output import NOTHING, Table, count_of, moment, show_json, show_table

if TYPE_CHECKING:
    from app.cli.model_lines import BackendModels


async def list_models(*, common: Common = COMMON) -> None:
    """List the models of all backends, in the order in which backends are used.

    Shows the gateway's model table, which the worker refreshes all the time; `probe-ollama` asks the backends
    themselves, and `models list` shows who may use what.

    Example: `neuronetz-gateway list-models`
    """
    async with control_plane(common) as control:
        listed = await control.fleet.models()
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
    size = (
        ""
        if figures.bytes is None
        else f" in Redis: {_entries(figures.entries)}, {count_of(figures.bytes, 'byte')}"
    )
    print(
        f"{count_of(listed.union_count, 'different model')} on {count_of(len(listed.backends), 'backend')}."
        f" Model table{size or f': {_entries(figures.entries)}'}, written {moment(figures.written_at)} UTC."
    )


def _entries(number: int) -> str:
    return f"{number:,} {'entry' if number == 1 else 'entries'}"


def _rows(backend: "BackendModels") -> list[tuple[str, ...]]:
    state = backend.condition if backend.error is None else f"{backend.condition} ({backend.error})"
    if backend.drained:
        state += ", drained"
    rows = [
        (model.name, _gigabytes(model.size), "yes" if model.loaded else "") for model in backend.models
    ] or [(NOTHING, NOTHING, "")]
    # Only the first line of a backend names it: the group shows at a glance.
    heads = [(backend.name, state)] + [("", "")] * (len(rows) - 1)
    return [head + row for head, row in zip(heads, rows, strict=True)]


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
