"""The way of an inference request: read, perhaps spoilt by a fault, load the model, play the answer."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from app.simulator import anthropic, embeddings, native, openai, responses
from app.simulator.decode import Body, Refusal, decode_body
from app.simulator.errors import Family, error_body
from app.simulator.faults import FaultBook, Order, after_delay, cut_of, framing_of, misbehave
from app.simulator.http import Exchange
from app.simulator.jobs import Host, Job, Quick, Spoken
from app.simulator.loading import Runners
from app.simulator.playback import Run, StreamPlayback, WholePlayback
from app.simulator.request_log import Entry, RequestLog
from app.simulator.wire import NS_PER_MS, NS_PER_S


class Route(NamedTuple):
    """How one inference route is read. `known` are its body's fields."""

    family: Family
    known: frozenset[str]
    plan: Callable[[Body, Host], Job]


ROUTES: Final = {
    "/api/generate": Route("native", native.GENERATE_FIELDS, native.plan_generate),
    "/api/chat": Route("native", native.CHAT_FIELDS, native.plan_chat),
    "/api/embed": Route("native", embeddings.EMBED_FIELDS, embeddings.plan_embed),
    "/api/embeddings": Route("native", embeddings.EMBEDDINGS_FIELDS, embeddings.plan_embeddings),
    "/v1/chat/completions": Route("openai", openai.CHAT_FIELDS, openai.plan_chat_completion),
    "/v1/completions": Route("openai", openai.COMPLETION_FIELDS, openai.plan_completion),
    "/v1/responses": Route("responses", responses.FIELDS, responses.plan_response),
    "/v1/messages": Route("anthropic", anthropic.FIELDS, anthropic.plan_message),
    "/v1/embeddings": Route("openai", embeddings.V1_EMBEDDINGS_FIELDS, embeddings.plan_v1_embeddings),
}


class Inference:
    """Answers inference requests with what one server hosts."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        host: Host,
        runners: Runners,
        faults: FaultBook,
        log: RequestLog,
    ) -> None:
        self._loop = loop
        self._host = host
        self._runners = runners
        self._faults = faults
        self._log = log

    def serve(self, exchange: Exchange, route: Route) -> None:
        """Answer one request."""
        request = exchange.request
        asked: Body | Refusal
        try:
            asked = decode_body(request.body, route.known)
        except Refusal as refusal:
            asked = refusal
        entry = self._log.begin(request, asked if isinstance(asked, dict) else None)
        exchange.on_end = entry.end
        name = _model_name(asked)
        order = self._faults.take(request.path, inference=True, model=name)
        if order is None:
            self._answer(exchange, route, asked, entry, None)
            return
        entry.fault = order.fault
        after_delay(order, exchange, self._loop, partial(self._spoil, exchange, route, asked, entry, order))

    def _spoil(
        self, exchange: Exchange, route: Route, asked: Body | Refusal, entry: Entry, order: Order
    ) -> None:
        if not misbehave(order, exchange, family=route.family, model=_model_name(asked), loop=self._loop):
            exchange.frame = framing_of(order) or exchange.frame
            self._answer(exchange, route, asked, entry, order)

    def _answer(
        self, exchange: Exchange, route: Route, asked: Body | Refusal, entry: Entry, order: Order | None
    ) -> None:
        try:
            if isinstance(asked, Refusal):
                raise asked
            job = route.plan(asked, self._host)
        except Refusal as refusal:
            exchange.whole(refusal.status, *error_body(route.family, refusal.status, refusal.message))
            return
        if isinstance(job, Spoken):
            speak = partial(self._speak, exchange, job, route.family, entry, order)
            self._runners.acquire(job.model, exchange, speak)
        elif job.unload:
            self._runners.unload(job.model.name)
            self._reply(exchange, job)
        else:
            self._runners.acquire(job.model, exchange, partial(self._use, exchange, job))

    def _use(self, exchange: Exchange, job: Quick) -> None:
        self._runners.used(job.model.name, job.keep_alive)
        self._reply(exchange, job)

    def _reply(self, exchange: Exchange, job: Quick) -> None:
        took = max(1, time.monotonic_ns() - exchange.request.arrived_ns)
        exchange.whole(200, job.content_type, job.body(took, took))

    def _speak(
        self, exchange: Exchange, job: Spoken, family: Family, entry: Entry, order: Order | None
    ) -> None:
        self._runners.used(job.model.name, job.keep_alive)
        interval_ns = self._host.interval_ns
        if order is not None and order.chunk_delay_ms is not None:
            interval_ns = order.chunk_delay_ms * NS_PER_MS
        run = Run(
            echo=job.echo,
            script=job.script,
            prompt_tokens=job.prompt_tokens,
            interval_ns=interval_ns,
            arrived_ns=exchange.request.arrived_ns,
            loaded_ns=time.monotonic_ns(),
        )
        shape = job.shape(run, self._host.clock)
        cut = None if order is None else cut_of(order, shape, family=family, stream=job.stream)
        tokens = len(job.script.pieces)
        pace_s = interval_ns / NS_PER_S
        if job.stream:
            StreamPlayback(
                self._loop, exchange, shape=shape, tokens=tokens, interval_s=pace_s, cut=cut, meter=entry
            ).start()
        else:
            WholePlayback(
                self._loop,
                exchange,
                shape=shape,
                tokens=tokens,
                duration_s=pace_s * tokens,
                cut=cut,
                meter=entry,
            ).start()


def _model_name(asked: Body | Refusal) -> str:
    model = asked.get("model") if isinstance(asked, dict) else None
    return model if isinstance(model, str) else ""
