"""One ASGI endpoint per public path: exact path, allowed methods, one answer, one log line, whatever happens."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
import structlog
from litestar.enums import ScopeType
from litestar.types import Receive, Scope, Send

from app.gateway.access_log import AccessLog, AccessNote
from app.gateway.body import BodyCut, ClientLeft
from app.gateway.call import Call, call_of
from app.gateway.downstream import JSON, Downstream
from app.gateway.lingering import Lingering
from app.gateway.relay import AnswerCut
from app.metrics import Metrics, RouteMetrics
from app.problems import problem_of, render, render_event
from domain.errors import BodyTooSlow, BrokenFraming, GatewayError, MethodNotAllowed, Unavailable, UnknownPath
from domain.values import ApiFamily

CLIENT_CLOSED_STATUS: Final = 499
BROKEN_OFF: Final = "the body ended before it was complete"
TWO_ENDS: Final = (
    "it is not certain where this request ends; send Content-Length or 'Transfer-Encoding: chunked'"
)

_log = structlog.get_logger()


class Visit:
    """Everything a handler needs to answer one request. `charged` is what it came to in tokens, once that is known."""

    __slots__ = ("call", "charged", "downstream", "metrics", "note", "receive")

    def __init__(
        self, call: Call, downstream: Downstream, receive: Receive, note: AccessNote, metrics: RouteMetrics
    ) -> None:
        self.call = call
        self.charged = 0
        self.downstream = downstream
        self.receive = receive
        self.note = note
        self.metrics = metrics


Handler = Callable[[Visit], Awaitable[None]]


class PublicRoute(msgspec.Struct, frozen=True):
    """A path of the tenant surface.

    `template` is what Litestar routes and what logs and metrics call it; `prefix` means that anything may
    follow the template's fixed part.
    """

    template: str
    family: ApiFamily
    handlers: Mapping[str, Handler]
    prefix: bytes | None = None

    @property
    def allow(self) -> str:
        """The value of the Allow header."""
        return ", ".join(self.handlers)


class Endpoint:
    """The ASGI application behind one public route."""

    def __init__(
        self, route: PublicRoute, *, metrics: Metrics, access_log: AccessLog, lingering: Lingering
    ) -> None:
        self._route = route
        self._lingering = lingering
        self._raw_path = route.template.encode()
        self._metrics = RouteMetrics(metrics, route.template)
        self._access_log = access_log

    async def answer(self, scope: Scope, receive: Receive, send: Send, path_key: bytes | None = None) -> None:
        """Answer one request. `path_key` is the key that stood before its path."""
        if scope["type"] != ScopeType.HTTP:  # Litestar types an ASGI route's scope as either kind
            return
        call = call_of(scope, path_key)
        downstream = Downstream(send, request_id=call.request_id_text, head_only=call.method == "HEAD")
        note = AccessNote()
        visit = Visit(call, downstream, receive, note, self._metrics)
        try:
            await self._handler(call)(visit)
        except GatewayError as refusal:
            await self._refuse(visit, refusal)
        except BodyCut:
            # If its chunks are broken, there still is somebody to be told.
            await self._refuse(visit, BrokenFraming(BROKEN_OFF))
            downstream.status = CLIENT_CLOSED_STATUS
        except ClientLeft:
            downstream.status = CLIENT_CLOSED_STATUS
        except AnswerCut:
            pass  # why is in the log already
        except Exception as fault:  # noqa: BLE001 - whatever it is, the client gets an answer and the log the trace
            _log.exception(
                "request_failed", request_id=call.request_id_text.decode(), route=self._route.template
            )
            await self._refuse(visit, fault)
        finally:
            call.let_go_of_body()
            downstream.close()
            self._metrics.answered(downstream.status)
            self._access_log.write(
                call,
                route=self._route.template,
                status=downstream.status,
                sent_bytes=downstream.sent_bytes,
                note=note,
            )

    def _handler(self, call: Call) -> Handler:
        prefix = self._route.prefix
        if call.raw_path != self._raw_path if prefix is None else not call.raw_path.startswith(prefix):
            raise UnknownPath
        handler = self._route.handlers.get(call.method)
        if handler is None:
            raise MethodNotAllowed(self._route.allow)
        if call.framing_in_doubt:
            raise BrokenFraming(TWO_ENDS)
        return handler

    async def _refuse(self, visit: Visit, error: Exception) -> None:
        """Tell the client, unless an answer has begun: the server then closes the connection, unfinished as it is."""
        downstream = visit.downstream
        if isinstance(error, Unavailable):
            self._metrics.unavailable(error.reason)
        if downstream.answering:
            return
        problem = problem_of(error)
        if downstream.started:
            await downstream.finish(render_event(problem, self._route.family, downstream.request_id))
            return
        body = render(problem, self._route.family, downstream.request_id)
        if visit.call.is_being_sent and not isinstance(error, BodyTooSlow):
            await self._lingering.let_finish(visit.receive)
        await downstream.answer(problem.status, JSON, body, problem.headers)
