"""`/api/show`: asking a backend what a model is.

The answer belongs to the model's digest, so it is asked for once and kept for a while. However many callers want
it at the same time, a backend is asked once: that, and not a limit, is what bounds the cost of this route.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

import msgspec
import structlog

from app.gateway.call import Call
from domain.errors import ModelForbidden, Sent, UpstreamExhausted, UpstreamFailed
from domain.model_facts import ModelFacts, read_facts
from domain.model_names import CanonicalName
from domain.ports import Upstream, UpstreamAnswer
from domain.route import Candidate, rank

ATTEMPT_S: Final = 4.0
ALTOGETHER_S: Final = 9.0
"""Clients that build a list of models from this give up after 10 seconds."""
KEPT_S: Final = 300.0
MAX_KEPT: Final = 256
MAX_BODY_BYTES: Final = 4 * 1024 * 1024

_PATH: Final = b"/api/show"
_OK: Final = 200
_NOT_FOUND: Final = 404

_log = structlog.get_logger()


class Shows:
    """What backends said of models lately.

    Parameters
    ----------
    upstreams
        The backends by name.
    cooling
        The backends in cooldown.
    request_poll
        Asks for an early poll: the model table may be wrong.
    attempt_s
        What one backend may take.
    now
        A clock in seconds.
    """

    def __init__(
        self,
        *,
        upstreams: Mapping[str, Upstream],
        cooling: Callable[[], Collection[str]],
        request_poll: Callable[[], None],
        attempt_s: float = ATTEMPT_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._attempt_s = attempt_s
        self._upstreams = upstreams
        self._cooling = cooling
        self._request_poll = request_poll
        self._now = now
        self._kept: dict[str, tuple[float, ModelFacts]] = {}
        self._asking: dict[str, asyncio.Task[ModelFacts]] = {}

    async def facts(self, name: CanonicalName, candidates: tuple[Candidate, ...], call: Call) -> ModelFacts:
        """Return what the first candidate that answers says of a model. Nothing of the client is passed on.

        Raises
        ------
        ModelForbidden
            Every candidate said that it does not have the model.
        UpstreamExhausted
            Nobody answered in time and in form.
        """
        digest = candidates[0].model_digest
        kept = self._kept.get(digest)
        if kept is not None and kept[0] > self._now():
            return kept[1]
        wanted = digest or name.display
        asking = self._asking.get(wanted)
        if asking is None:
            asking = asyncio.create_task(self._ask(name, candidates, call))
            self._asking[wanted] = asking
            asking.add_done_callback(lambda task: self._answered(wanted, task))
        # Whoever began to wait may leave; the others still want the answer.
        return await asyncio.shield(asking)

    def _answered(self, wanted: str, task: asyncio.Task[ModelFacts]) -> None:
        del self._asking[wanted]
        if not task.cancelled():
            task.exception()  # fetched, so that the loop does not complain if all who waited have left

    async def _ask(self, name: CanonicalName, candidates: tuple[Candidate, ...], call: Call) -> ModelFacts:
        body = msgspec.json.encode({"model": name.display})
        missing = 0
        deadline = asyncio.get_running_loop().time() + ALTOGETHER_S
        for candidate in rank(candidates, self._cooling()):
            try:
                async with asyncio.timeout_at(deadline), asyncio.timeout(self._attempt_s):
                    facts = await self._ask_one(candidate, body, call)
            except (UpstreamFailed, TimeoutError) as failure:
                self._failed(candidate, failure, call)
                continue
            if facts is not None:
                self._keep(candidate.model_digest, facts)
                return facts
            missing += 1
            self._request_poll()
        raise ModelForbidden if missing == len(candidates) else UpstreamExhausted

    async def _ask_one(self, candidate: Candidate, body: bytes, call: Call) -> ModelFacts | None:
        """Return what one backend says, None if it says that it does not have the model."""
        answer = await self._upstreams[candidate.backend].post(
            _PATH, body, request_id=call.request_id_text, traceparent=call.traceparent
        )
        try:
            if answer.status == _NOT_FOUND:
                return None
            if answer.status != _OK or answer.headers.get(b"content-encoding", b"identity") != b"identity":
                raise UpstreamFailed(f"http_{answer.status}", Sent.HEAD_RECEIVED)
            facts = read_facts(await _whole(answer))
            if facts is None:
                raise UpstreamFailed("bad_answer", Sent.HEAD_RECEIVED)
            return facts
        finally:
            answer.close()

    def _keep(self, digest: str, facts: ModelFacts) -> None:
        if not digest:
            return  # nothing tells whether it is still the same model
        if len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept.pop(digest, None)
        self._kept[digest] = (self._now() + KEPT_S, facts)

    def _failed(self, candidate: Candidate, failure: Exception, call: Call) -> None:
        self._request_poll()
        _log.warning(
            "show_failed",
            request_id=call.request_id_text.decode(),
            backend=candidate.backend,
            kind=failure.kind if isinstance(failure, UpstreamFailed) else "timeout",
        )


async def _whole(answer: UpstreamAnswer) -> bytes:
    held = bytearray()
    while piece := await answer.read():
        held += piece
        if len(held) > MAX_BODY_BYTES:
            raise UpstreamFailed("oversize", Sent.HEAD_RECEIVED)
    return bytes(held)
