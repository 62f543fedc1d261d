"""The life of a relayed request. START READING HERE: the stages stand in their order.

authenticate -> authorize -> admit -> route and relay -> account. Everything that may refuse a request does so
before the first byte has left; everything that must happen afterwards needs no await, so that neither a client
that leaves nor a process told to stop can lose it.
"""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

import msgspec

from app.gateway.attempts import Order
from app.gateway.body import ClientLeft
from app.gateway.call import Call
from app.gateway.downstream import JSON
from app.gateway.endpoint import Visit
from app.gateway.exchanges import CutReason, Subject
from app.gateway.gateway import Gateway, first_of_month
from app.gateway.relay import AnswerCut, relay
from domain.account import Tally
from domain.authorize import able_to_search, authorize
from domain.errors import (
    AnswerGivenUp,
    GatewayError,
    LedgerFull,
    ModelForbidden,
    RejectedUpstream,
    Unauthenticated,
    Unavailable,
)
from domain.images import refuse_unfit
from domain.model_names import CanonicalName
from domain.ollama import unload_answer
from domain.requests import ParsedRequest, Policed, parse_request, rebuild, rebuild_in_pieces
from domain.reservations import probable, reserve
from domain.route import Candidate
from domain.routes import RouteKind, RouteSpec
from domain.usage import Admission, UsageOutcome
from domain.values import Principal, TenantId

_GOODBYES = {
    CutReason.DRAINING: "the gateway is restarting; send the request again",
    CutReason.REVOKED: "the key is no longer valid",
    CutReason.FORBIDDEN: "the key may no longer use this model",
}
_LATE_REFUSALS: dict[CutReason, type[GatewayError]] = {
    CutReason.REVOKED: Unauthenticated,
    CutReason.FORBIDDEN: ModelForbidden,
}


class Grant(NamedTuple):
    """A principal's right to one request: on which model, where, and what of it a backend may be sent."""

    principal: Principal
    tenant_id: TenantId
    name: CanonicalName
    candidates: tuple[Candidate, ...]
    policed: Policed
    forwards_unload: bool


async def serve(visit: Visit, spec: RouteSpec, gateway: Gateway) -> None:
    """Answer one inference request."""
    call = visit.call
    principal = await gateway.principal(call)
    visit.note.tenant = principal.tenant_slug
    visit.note.key = principal.key_prefix
    at_most = None if spec.takes_images else gateway.bodies.max_text_bytes
    bodies = gateway.bodies
    request = await bodies.parse(
        partial(parse_request, spec), await bodies.read(call, visit.receive, at_most=at_most)
    )
    visit.metrics.dropped(request.dropped)
    grant = allow(request, principal, gateway)
    visit.note.model = grant.name.display
    visit.metrics.dropped(grant.policed.stripped)
    if request.is_unload and not grant.forwards_unload:
        await visit.downstream.answer(200, JSON, unload_answer(spec, request.model))
        return
    # Nothing here may hold the client's words while it waits for the answer: `run` drops them when it can.
    if not gateway.limiter.concerns(principal):
        running = run(visit, request, grant, gateway)
        del request, grant
        await running
        return
    tenant_id = grant.tenant_id
    limited = await reserved(visit, request, grant, gateway)
    try:
        running = run(visit, request, limited, gateway)
        del request, grant, limited
        await running
    finally:
        gateway.limiter.settle(tenant_id, call.request_id, visit.charged)


async def run(visit: Visit, request: ParsedRequest, grant: Grant, gateway: Gateway) -> None:
    """Admit a request, relay its answer, and account for it (stages 3 to 6)."""
    call = visit.call
    principal = grant.principal
    while not gateway.is_current(principal, call):
        # Asked until the answer holds at this very moment: from here to the start of the exchange, where the next
        # revocation finds it, nothing is waited for.
        principal = await gateway.principal(call)
        allow(request, principal, gateway)
    tally = admit(call, request, grant, gateway)
    write = rebuild_in_pieces if request.is_large else rebuild
    order = Order(
        spec=request.spec,
        request=request.without_content(),
        name=grant.name,
        path=request.spec.path.encode(),
        body=write(request, grant.name.forwarded, grant.policed),
        candidates=grant.candidates,
        request_id=call.request_id_text,
        traceparent=call.traceparent,
        let_go_of_body=call.let_go_of_body,
    )
    # A stream may live for an hour: from its first record on, nothing here holds the client's words any more.
    tenant_id, name = grant.tenant_id, grant.name
    del request, grant
    subject = Subject(
        principal.key_id,
        tenant_id,
        call.key_digests,
        name,
        lambda: gateway.client_address(call),
        in_path=call.key_in_path,
    )
    try:
        relaying = relay(order, visit.downstream, tally, gateway)
        await exchange(visit, tally, relaying, subject=subject, gateway=gateway)
    finally:
        visit.charged = account(visit, tally, gateway)


def allow(request: ParsedRequest, principal: Principal, gateway: Gateway) -> Grant:
    """Decide whether a principal may make a request, and what its option policies make of it (stage 2).

    Raises
    ------
    ModelForbidden
        As `domain.authorize.authorize` says.
    Unavailable
        This process has not learned yet who hosts what.
    BadRequest
        An option policy rejects a field, an image is not fit for a backend, or no backend may search the web.
    """
    name, candidates = authorize(
        request.model,
        rights=gateway.rights(principal),
        index=gateway.catalogue.known(),
        embeds=request.spec.kind is RouteKind.EMBED,
    )
    if principal.tenant_id is None:
        raise ModelForbidden
    if request.searches_web:
        candidates = able_to_search(candidates)
    if request.prompt.pictures:
        refuse_unfit(request.prompt.pictures, [candidate.version for candidate in candidates])
    policy = gateway.policy(principal, name)
    return Grant(
        principal, principal.tenant_id, name, candidates, policy.apply(request), policy.forwards_unload
    )


async def reserved(visit: Visit, request: ParsedRequest, grant: Grant, gateway: Gateway) -> Grant:
    """Take what a request may come to from its limits (stage 3); whoever called has to settle what it came to.

    The grant that is returned may ask the backend for less output, so that the reservation fits the limits.

    Raises
    ------
    LimitExceeded, PromptTooLarge
        A limit does not let the request in.
    Unavailable
        The limits cannot be asked.
    """
    limiter, principal = gateway.limiter, grant.principal
    generates = not (request.is_load_only or request.spec.output_cap_field is None)
    reservation = reserve(
        request.prompt,
        output_cap=grant.policed.output_cap if generates else None,
        context_length=gateway.catalogue.index.context_length(grant.name.display),
        image_tokens=gateway.image_tokens,
        smallest_token_limit=limiter.smallest_token_limit(principal),
    )
    if reservation.output_cap is not None:
        policed = msgspec.structs.replace(grant.policed, output_cap=reservation.output_cap)
        grant = grant._replace(policed=policed)
    states = await limiter.take(principal, visit.call.request_id, reservation.tokens)
    visit.downstream.announce(states)
    return grant


def admit(call: Call, request: ParsedRequest, grant: Grant, gateway: Gateway) -> Tally:
    """Let a request in: from here on it has exactly one record (stage 3).

    Raises
    ------
    Unavailable
        The time to drain is over, or the journal has no room.
    """
    if gateway.exchanges.closed:
        raise Unavailable("draining")
    now = datetime.now(UTC)
    admission = Admission(
        request_id=call.request_id,
        period=first_of_month(now),
        tenant_id=grant.tenant_id,
        key_id=grant.principal.key_id,
        model=grant.name.display,
        model_digest=grant.candidates[0].model_digest,
        api_family=request.spec.family,
        route=request.spec.path,
        started_at=now,
        prompt_tokens_estimate=probable(
            request.prompt,
            context_length=gateway.catalogue.index.context_length(grant.name.display),
            image_tokens=gateway.image_tokens,
        ),
        client_request_id=call.client_request_id,
    )
    try:
        entry = gateway.ledger.open(admission)
    except LedgerFull as full:
        raise Unavailable("journal_full") from full
    return Tally(
        admission, entry, started=call.started, rates=gateway.rates, output_cap=grant.policed.output_cap or 0
    )


async def exchange(
    visit: Visit, tally: Tally, relaying: Awaitable[None], *, subject: Subject, gateway: Gateway
) -> None:
    """Run the relay where others can cut it, and give every ending its outcome."""
    running, task = gateway.exchanges.start(visit.downstream, visit.receive, subject)
    try:
        await relaying
    except asyncio.CancelledError:
        if running.reason is None:
            tally.settle(UsageOutcome.CUT)
            raise
        task.uncancel()
        await _ended_from_outside(running.reason, visit, tally)
    except (RejectedUpstream, ModelForbidden):
        tally.settle(UsageOutcome.REJECTED_UPSTREAM)
        raise
    except Unavailable:
        tally.settle(UsageOutcome.CUT)
        raise
    except AnswerGivenUp:
        tally.settle(UsageOutcome.UPSTREAM_TRUNCATED)
        raise
    except (GatewayError, AnswerCut):
        tally.settle(UsageOutcome.UPSTREAM_FAILED)
        raise
    except BaseException:
        tally.settle(UsageOutcome.CUT)
        raise
    finally:
        gateway.exchanges.remove(running)


async def _ended_from_outside(reason: CutReason, visit: Visit, tally: Tally) -> None:
    if reason in {CutReason.CLIENT_GONE, CutReason.WRITE_STALLED}:
        tally.settle(UsageOutcome.CLIENT_CLOSED)
        raise ClientLeft
    if tally.settlement is not None:
        return  # the answer was complete: its last bytes are on their way, and nothing may follow them
    tally.settle(UsageOutcome.CUT)
    if not visit.downstream.answering:
        late = _LATE_REFUSALS.get(reason)
        raise Unavailable("draining") if late is None else late
    reader = visit.downstream.reader
    if reader is None or reader.overlong:
        raise AnswerCut  # the client stands inside a record: nothing can be said to it in-band
    await visit.downstream.finish(reader.parting(_GOODBYES[reason]))


def account(visit: Visit, tally: Tally, gateway: Gateway) -> int:
    """Report the settled request to log and metrics and return the tokens it is charged (stage 6).

    The record itself is already in the journal.
    """
    settled = tally.settle(UsageOutcome.CUT)
    note = visit.note
    note.backend = settled.backend or ""
    note.attempts = len(settled.attempted_backends)
    note.queue_ms = round(tally.queued_s * 1e3, 3)
    note.outcome = settled.outcome.value
    note.tokens_in = settled.tokens_in
    note.tokens_out = settled.tokens_out
    visit.metrics.ended(settled.outcome)
    first_token_s = tally.first_token_s()
    if first_token_s is not None:
        visit.metrics.first_token.observe(first_token_s)
    gateway.count_tokens(settled)
    return settled.tokens_in + settled.tokens_out
