"""`/admin/v1/backends`: the Ollama servers as they are at the moment, and taking one out of service."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from litestar import Controller, get, post
from litestar.openapi.spec import Example
from litestar.params import Body, PathParameter, QueryParameter
from msgspec import Meta

from app.admin import paging
from app.admin.contract import Answered, Asked, JsonBody, Moment
from app.admin.fleet import Fleet, Seen
from app.admin.handed import Admin, By
from app.cursors import cursor_at
from domain.backends import BackendSpec
from domain.drains import MAX_REASON_CHARS, Drain
from domain.model_table import BackendCondition, BackendState
from domain.one_line import PRINTABLE

NameInPath = Annotated[str, PathParameter(description="The backend's name in the settings.")]
Wait = Annotated[
    bool,
    QueryParameter(
        name="wait",
        description="Answer only when every app process acts upon it, or after 5 seconds; `effective` says which.",
    ),
]
Condition = Annotated[
    Literal["ok", "stale", "silent", "unknown"],
    Meta(
        description="What the last polls say. ok: it answered. stale: it did not, its models still count. silent: it"
        " has not answered for long, its models left the lists and it is tried last. unknown: it never answered."
    ),
]
CoolingIn = Annotated[
    int | None,
    Meta(
        description="App processes that leave it out for seconds because a request just failed there; null: Redis"
        " cannot be asked."
    ),
]
PolledAt = Annotated[Moment | None, Meta(description="The last poll, answered or not; null: none yet.")]
Version = Annotated[str | None, Meta(description="Of Ollama, as it last said.", examples=["0.33.0"])]
TableWrittenAt = Annotated[
    Moment | None,
    Meta(description="How old the model table of the answering process is; null: it has none yet."),
]


class BackendDrain(Answered):
    """Who took a backend out of service, when and why."""

    at: Moment
    by: Annotated[str, Meta(description="An admin key's prefix, or `cli:` and a user's name.")]
    reason: str


class Backend(Answered):
    """One Ollama server."""

    name: str
    address: Annotated[str, Meta(description="Where it is.", extra_json_schema={"format": "uri"})]
    has_token: Annotated[bool, Meta(description="Whether the gateway proves itself to it with a token.")]
    allow_cloud: Annotated[bool, Meta(description="Whether its models may leave the machine.")]
    condition: Condition
    reachable: Annotated[bool, Meta(description="Whether the last poll was answered.")]
    error: Annotated[
        str | None,
        Meta(description="What was wrong with the last poll; null: nothing.", examples=["connect_refused"]),
    ]
    version: Version
    last_poll_at: PolledAt
    last_answer_at: Annotated[Moment | None, Meta(description="The last poll it answered; null: none yet.")]
    models: Annotated[tuple[str, ...], Meta(description="What it hosts.")]
    loaded_models: Annotated[tuple[str, ...], Meta(description="What it has in memory.")]
    in_flight: Annotated[
        int | None,
        Meta(description="Requests it has from all app processes; null: Redis cannot be asked."),
    ]
    max_in_flight: Annotated[
        int | None, Meta(description="Requests it gets at once for each model; null: as many as come.")
    ]
    cooling_in: CoolingIn
    drained: Annotated[bool, Meta(description="Whether it gets no new requests; those that run finish.")]
    drain: Annotated[BackendDrain | None, Meta(description="Why it is drained; null: it is not.")]
    effective: Annotated[
        bool | None,
        Meta(description="Whether every app process acts upon `drained`; null: Redis cannot be asked."),
    ]


class BackendPage(Answered):
    """Backends in the operator's order, which is the order in which they are tried."""

    items: tuple[Backend, ...]
    next_cursor: paging.NextCursor
    table_written_at: TableWrittenAt
    processes: Annotated[int | None, Meta(description="Live app processes; null: Redis cannot be asked.")]


class DrainRequest(Asked):
    """Why a backend is taken out of service."""

    reason: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=MAX_REASON_CHARS,
            pattern=PRINTABLE,
            description="For whoever finds it drained.",
        ),
    ]


_WHY: Final[Any] = Body(examples=[Example("card", value={"reason": "gets a new card"})])


class BackendController(Controller):
    """The backends."""

    path = "/backends"
    tags = ("backends",)

    @get(
        operation_id="listBackends",
        summary="List backends with their live state, in the order they are tried",
    )
    async def list_backends(
        self,
        admin: Admin,
        caller: By,
        limit: paging.Limit = paging.DEFAULT_ENTRIES,
        cursor: paging.Cursor = None,
    ) -> BackendPage:
        """Answer a page; the cursor holds how many came before."""
        fleet = admin.fleet
        first = max(0, paging.place_of(cursor, int) or 0)
        async with admin.database.unit_of_work(caller.actor) as work:
            drains = await work.backends.drained()
        seen = await fleet.seen()
        specs = fleet.specs[first : first + limit]
        past = first + len(specs)
        return BackendPage(
            items=tuple(_backend(spec, fleet, drains, seen) for spec in specs),
            next_cursor=cursor_at(past) if past < len(fleet.specs) else None,
            table_written_at=fleet.written_at(),
            processes=seen.processes,
        )

    @get("/{name:str}", operation_id="getBackend", summary="Get a backend with its live state")
    async def get_backend(self, name: NameInPath, admin: Admin, caller: By) -> Backend:
        """Answer one backend."""
        spec = admin.fleet.spec(name)
        async with admin.database.unit_of_work(caller.actor) as work:
            drains = await work.backends.drained()
        return _backend(spec, admin.fleet, drains, await admin.fleet.seen())

    @post(
        "/{name:str}/drain",
        operation_id="drainBackend",
        summary="Take a backend out of service; what runs there finishes",
        dto=JsonBody[DrainRequest],
        return_dto=None,
        status_code=200,
    )
    async def drain_backend(
        self,
        *,
        name: NameInPath,
        data: Annotated[DrainRequest, _WHY],
        admin: Admin,
        caller: By,
        wait: Wait = False,
    ) -> Backend:
        """Answer the backend. It stays drained until somebody lets it back in, whatever restarts meanwhile."""
        spec = admin.fleet.spec(name)
        async with admin.database.unit_of_work(caller.actor) as work:
            drain = await work.backends.drain(name, data.reason)
        seen = await (admin.fleet.settled(name, drained=True) if wait else admin.fleet.seen())
        return _backend(spec, admin.fleet, {name: drain}, seen)

    @post(
        "/{name:str}/undrain",
        operation_id="undrainBackend",
        summary="Let a drained backend back in",
        status_code=200,
    )
    async def undrain_backend(
        self, *, name: NameInPath, admin: Admin, caller: By, wait: Wait = False
    ) -> Backend:
        """Answer the backend. Repeating it changes nothing."""
        spec = admin.fleet.spec(name)
        async with admin.database.unit_of_work(caller.actor) as work:
            await work.backends.undrain(name)
        seen = await (admin.fleet.settled(name, drained=False) if wait else admin.fleet.seen())
        return _backend(spec, admin.fleet, {}, seen)


def _backend(spec: BackendSpec, fleet: Fleet, drains: Mapping[str, Drain], seen: Seen) -> Backend:
    name = spec.name
    state = fleet.states().get(name) or BackendState(name, "", BackendCondition.UNKNOWN)
    drain = drains.get(name)
    return Backend(
        name=name,
        address=spec.base_url,
        has_token=spec.auth_token is not None,
        allow_cloud=spec.allow_cloud,
        condition=state.condition.value,
        reachable=state.condition is BackendCondition.OK,
        error=state.error,
        version=state.version,
        last_poll_at=state.polled_at,
        last_answer_at=state.last_ok_at,
        models=tuple(model.name for model in state.models),
        loaded_models=state.loaded,
        in_flight=seen.in_flight(name),
        max_in_flight=spec.max_in_flight,
        cooling_in=seen.cooling_in(name),
        drained=drain is not None,
        drain=None if drain is None else BackendDrain(at=drain.at, by=drain.by, reason=drain.reason),
        effective=seen.agree(name, drained=drain is not None),
    )
