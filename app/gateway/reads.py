"""What clients ask about models and about themselves, besides the lists: nothing here generates anything.

None of it is admitted: no usage record, no limit. The lists and `/me` cost no backend anything, and `/api/show` as
much as one question per model every few minutes, whoever asks (`app.gateway.show`).
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import structlog
from redis.exceptions import RedisError

from app.gateway.downstream import JSON
from app.gateway.endpoint import Handler, PublicRoute, Visit
from app.gateway.gateway import Gateway
from domain.authorize import authorize
from domain.errors import BadRequest, Unavailable
from domain.limits import LimitKind
from domain.model_facts import show_answer
from domain.periods import bounds
from domain.requests import MODEL_REQUIRED
from domain.standing import LimitUse
from domain.strict_json import KnownFields, parse_object
from domain.values import ApiFamily, Limits, Principal

GatewayOf = Callable[[], Gateway]

NATIVE: Final = ApiFamily.NATIVE
NO_CLOUD: Final = b'{"cloud":{"disabled":true,"source":"config"}}'
NO_RECOMMENDATIONS: Final = b'{"recommendations":[]}'
MAX_SHOW_BODY_BYTES: Final = 65_536
"""Plenty for the name of a model, which is all that is read."""

_SHOW_FIELDS: Final = KnownFields(frozenset({"model", "name", "system", "template", "verbose", "options"}))
"""All but the model are ignored: they would have the backend tell more than tenants may know."""

_log = structlog.get_logger()


class LimitLine(msgspec.Struct, frozen=True):
    """One limit as its owner is told; None where Redis cannot be asked or does not know."""

    kind: str
    scope: str
    limit: int
    used: int | None
    reserved: int | None
    remaining: int | None
    resets_at: datetime | None


class Me(msgspec.Struct, frozen=True):
    """The body of `/me`.

    `models` are those that are hosted now and that the key may use; None while this process knows of none yet.
    """

    tenant: str
    key: str
    expires_at: datetime | None
    time_zone: str
    limits: list[LimitLine]
    models: list[str] | None


def read_routes(gateway: GatewayOf) -> list[PublicRoute]:
    """Return the routes. `gateway` gives the running gateway; it exists once the process has started."""
    return [
        PublicRoute("/api/ps", NATIVE, {"GET": _loaded(gateway)}),
        PublicRoute("/api/show", NATIVE, {"POST": _show(gateway)}),
        PublicRoute("/api/status", NATIVE, {"GET": _constant(gateway, NO_CLOUD)}),
        PublicRoute(
            "/api/experimental/model-recommendations", NATIVE, {"GET": _constant(gateway, NO_RECOMMENDATIONS)}
        ),
        PublicRoute("/me", NATIVE, {"GET": _me(gateway)}),
    ]


async def _known(visit: Visit, gateway: Gateway) -> Principal:
    principal = await gateway.principal(visit.call)
    visit.note.tenant = principal.tenant_slug
    visit.note.key = principal.key_prefix
    return principal


def _constant(gateway: GatewayOf, body: bytes) -> Handler:
    async def answer(visit: Visit) -> None:
        await _known(visit, gateway())
        await visit.downstream.answer(200, JSON, body)

    return answer


def _loaded(gateway: GatewayOf) -> Handler:
    async def loaded(visit: Visit) -> None:
        gw = gateway()
        rights = gw.rights(await _known(visit, gw))
        body = gw.listing().in_memory(rights.permit, now=datetime.now(UTC))
        await visit.downstream.answer(200, JSON, body)

    return loaded


def _show(gateway: GatewayOf) -> Handler:
    async def show(visit: Visit) -> None:
        gw = gateway()
        principal = await _known(visit, gw)
        body = await gw.bodies.read(visit.call, visit.receive, at_most=MAX_SHOW_BODY_BYTES)
        model = requested_model(body)
        name, candidates = authorize(model, rights=gw.rights(principal), index=gw.catalogue.known())
        visit.note.model = name.display
        facts = await gw.shows.facts(name, candidates, visit.call)
        listed = gw.listing().by_name.get(name.display)
        answer = show_answer(
            facts,
            name=name.display,
            requested=model,
            capabilities=None if listed is None else listed.capabilities,
            context_length=None if listed is None else listed.context_length,
        )
        await visit.downstream.answer(200, JSON, answer)

    return show


def requested_model(body: bytes) -> str:
    """Return the model that the body of `/api/show` names: `model`, or its older spelling `name`.

    Raises
    ------
    BadRequest
        It names none, or can be read in two ways.
    """
    values = parse_object(body, _SHOW_FIELDS).values
    for field in ("model", "name"):
        value = values.get(field)
        if value is not None and not isinstance(value, str):
            raise BadRequest(f"'{field}' must be a string")
        if value:
            return value
    raise BadRequest(MODEL_REQUIRED)


def _me(gateway: GatewayOf) -> Handler:
    async def me(visit: Visit) -> None:
        gw = gateway()
        principal = await _known(visit, gw)
        body = msgspec.json.encode(
            Me(
                tenant=principal.tenant_slug,
                key=principal.key_prefix,
                expires_at=principal.expires_at,
                time_zone=principal.time_zone,
                limits=await _limits(principal, gw, now=datetime.now(UTC)),
                models=_models(principal, gw),
            )
        )
        await visit.downstream.answer(200, JSON, body)

    return me


def _models(principal: Principal, gateway: Gateway) -> list[str] | None:
    permit = gateway.rights(principal).permit
    try:
        listed = gateway.listing().models
    except Unavailable:
        return None
    return sorted(model.name.display for model in listed if permit(model.name))


async def _limits(principal: Principal, gateway: Gateway, *, now: datetime) -> list[LimitLine]:
    """Return how every limit stands, by the clock and the counters in Redis where they can be read."""
    tenant_limits, key_limits = principal.tenant_limits, principal.key_limits
    if principal.tenant_id is None or not (tenant_limits.any_set() or key_limits.any_set()):
        return []
    day, month = bounds(principal.time_zone, now)
    uses: Sequence[LimitUse] | None
    try:
        uses = await gateway.standing.read(
            principal.tenant_id,
            principal.key_id,
            tenant_limits=tenant_limits,
            key_limits=key_limits,
            day=day,
            month=month,
        )
    except RedisError as exc:
        _log.warning("limits_unreadable", error=type(exc).__name__)
        uses = None
    if uses is None:
        return _unknown("tenant", tenant_limits) + _unknown("key", key_limits)
    ends = {LimitKind.TOKENS_PER_DAY: day.next, LimitKind.TOKENS_PER_MONTH: month.next}
    return [_line(use, now=now, period_end=ends.get(use.kind)) for use in uses]


def _unknown(scope: str, limits: Limits) -> list[LimitLine]:
    values = zip(LimitKind, msgspec.structs.astuple(limits), strict=True)
    return [LimitLine(kind.value, scope, n, None, None, None, None) for kind, n in values if n is not None]


def _line(use: LimitUse, *, now: datetime, period_end: int | None) -> LimitLine:
    resets_at = None
    if period_end is not None:
        resets_at = datetime.fromtimestamp(period_end, UTC)
    elif use.reset_s:
        resets_at = now + timedelta(seconds=use.reset_s)
    remaining = max(0, use.limit - use.used - (use.reserved or 0))
    return LimitLine(use.kind.value, use.scope, use.limit, use.used, use.reserved, remaining, resets_at)
