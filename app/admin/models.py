"""`/admin/v1/models`: the model table as the answering process uses it."""

from collections.abc import Sequence
from typing import Annotated

from litestar import Controller, get
from msgspec import Meta

from app.admin import paging
from app.admin.backends import Condition, CoolingIn, PolledAt, TableWrittenAt, Version
from app.admin.contract import Answered
from app.admin.fleet import Seen
from app.admin.handed import Admin
from app.cursors import cursor_at
from domain.model_table import BackendCondition, BackendState, HostedModel

_LISTED = frozenset({BackendCondition.OK, BackendCondition.STALE})


class ModelHost(Answered):
    """One backend that has the model."""

    backend: str
    digest: Annotated[str, Meta(description="Of the file it has under this name; empty: it does not say.")]
    size_bytes: Annotated[int, Meta(ge=0)]
    modified_at: Annotated[str, Meta(description="When it got the file, as it says.")]
    loaded: Annotated[bool, Meta(description="Whether it had the model in memory at the last poll.")]
    condition: Condition
    drained: Annotated[bool, Meta(description="Whether the backend gets no new requests.")]
    cooling_in: CoolingIn
    version: Version
    last_poll_at: PolledAt


class Model(Answered):
    """One model, whoever hosts it."""

    name: Annotated[str, Meta(examples=["llama3.2:latest"])]
    listed: Annotated[
        bool,
        Meta(
            description="Whether tenants that may use it see it in lists: a backend that answers is in service."
        ),
    ]
    digests_differ: Annotated[
        bool,
        Meta(
            description="Whether the backends have different files under this name. Embeddings then come from one."
        ),
    ]
    hosts: Annotated[tuple[ModelHost, ...], Meta(description="In the order in which they are tried.")]


class ModelPage(Answered):
    """Models by name."""

    items: tuple[Model, ...]
    next_cursor: paging.NextCursor
    table_written_at: TableWrittenAt


class ModelController(Controller):
    """The models of all backends."""

    path = "/models"
    tags = ("models",)

    @get(operation_id="listHostedModels", summary="List every model with the backends that host it, by name")
    async def list_models(
        self, admin: Admin, limit: paging.Limit = paging.DEFAULT_ENTRIES, cursor: paging.Cursor = None
    ) -> ModelPage:
        """Answer a page; the cursor holds the last name of the page before."""
        after = paging.place_of(cursor, str) or ""
        hosts: dict[str, list[tuple[BackendState, HostedModel]]] = {}
        for state in admin.fleet.known_states():
            for model in state.models:
                hosts.setdefault(model.name, []).append((state, model))
        names = sorted(name for name in hosts if name > after)
        seen = await admin.fleet.seen()
        return ModelPage(
            items=tuple(_model(name, hosts[name], seen) for name in names[:limit]),
            next_cursor=cursor_at(names[limit - 1]) if len(names) > limit else None,
            table_written_at=admin.fleet.written_at(),
        )


def _model(name: str, hosts: Sequence[tuple[BackendState, HostedModel]], seen: Seen) -> Model:
    return Model(
        name=name,
        listed=any(state.condition in _LISTED and not state.drained for state, _ in hosts),
        digests_differ=len({model.digest for _, model in hosts}) > 1,
        hosts=tuple(
            ModelHost(
                backend=state.name,
                digest=model.digest,
                size_bytes=model.size,
                modified_at=model.modified_at,
                loaded=name in state.loaded,
                condition=state.condition.value,
                drained=state.drained,
                cooling_in=seen.cooling_in(state.name),
                version=state.version,
                last_poll_at=state.polled_at,
            )
            for state, model in hosts
        ),
    )
