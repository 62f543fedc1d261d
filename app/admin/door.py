"""The door of the admin surface: nobody passes without a key, and nothing passes that the framework could choke on.

Litestar routes, validates and describes; what it does badly is done before it is asked. A body has been read whole,
within a size and a time, and is known to be JSON by its declaration; whoever calls has been proven; and every answer,
whoever made it, has a request id, a line in the log and one count.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog
from litestar.enums import ScopeType
from litestar.exceptions import LitestarException
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from app.admin.administration import Administration
from app.admin.dashboard.lobby import READING, wants_page
from app.admin.dashboard.pages import HTML, SECURITY_HEADERS, Page, trouble_page
from app.admin.dashboard.paths import is_dashboard
from app.admin.errors import AdminError, CrossSite, WrongMediaType
from app.admin.problems import PROBLEM_JSON, UNKEPT, Told, told
from app.gateway.access_log import AccessLog, AccessNote
from app.gateway.body import ClientLeft
from app.gateway.call import Call, call_of
from app.gateway.downstream import SERVER
from app.gateway.endpoint import BROKEN_OFF, CLIENT_CLOSED_STATUS, TWO_ENDS
from app.metrics import Metrics
from app.refusals import NO_ROUTE
from db.postgres import is_outage
from domain.errors import BrokenFraming, GatewayError, UnknownPath

API: Final = "/admin/v1/"

_JSON: Final = b"application/json"
_OWN_SITES: Final = frozenset({b"none", b"same-origin"})
_COMMON: Final = (SERVER, *UNKEPT)

_log = structlog.get_logger()


class AdminDoor:
    """The ASGI application below `/admin/`: the API, and the dashboard beside it."""

    def __init__(
        self,
        service: ASGIApp,
        within: Callable[[], Administration],
        *,
        metrics: Metrics,
        access_log: AccessLog,
        write_timeout_s: float,
    ) -> None:
        """`service` is the framework with the handlers, `within` returns what runs.

        A client that takes nothing for `write_timeout_s` has left.
        """
        self._service: Final = service
        self._within: Final = within
        self._metrics: Final = metrics
        self._access_log: Final = access_log
        self._write_timeout_s: Final = write_timeout_s

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != ScopeType.HTTP:
            return
        call = call_of(scope)
        note = AccessNote()
        exit_ = _exit(call, scope, send, self._write_timeout_s)
        try:
            await self._serve(call, scope, receive, exit_, note)
        except (GatewayError, AdminError) as refusal:
            await exit_.refuse(told(refusal))
        except ClientLeft:
            # Broken framing looks the same as leaving; then there still is somebody to be told.
            await exit_.refuse(told(BrokenFraming(BROKEN_OFF)))
            exit_.status = CLIENT_CLOSED_STATUS
        except Exception as fault:  # noqa: BLE001 - whatever it is, the caller gets an answer and the log the trace
            await self._failed(
                fault, exit_, {"request_id": call.request_id_text.decode(), "route": _route(scope)}
            )
        finally:
            call.let_go_of_body()
            self._note(call, scope, exit_, note)

    async def _serve(
        self, call: Call, scope: Scope, receive: Receive, exit_: "_Exit", note: AccessNote
    ) -> None:
        path = scope["path"]
        # The dashboard's first page is the one path here that ends with a slash, so nobody has looked at its spelling.
        if not (path.startswith(API) or is_dashboard(path)) or call.raw_path != path.encode(
            "utf-8", "replace"
        ):
            raise UnknownPath
        if call.framing_in_doubt:
            raise BrokenFraming(TWO_ENDS)
        headers = dict(scope["headers"])
        # Before any key is looked at: other pages must not make an operator's browser guess.
        if call.method not in READING and headers.get(b"sec-fetch-site", b"none") not in _OWN_SITES:
            raise CrossSite
        admin = self._within()
        if is_dashboard(path):
            entered = await admin.lobby.enter(call, scope, receive)
            if isinstance(entered, Page):
                await exit_.show(entered)
                return
            caller = entered
        else:
            caller = await admin.logins.caller(call)
        note.key = caller.principal.key_prefix
        body = await admin.bodies.read(call, receive)
        if body and _media_type(headers.get(b"content-type", b"")) != _JSON:
            raise WrongMediaType
        scope["user"] = caller
        await self._service(scope, _Read(body, receive), exit_.send)

    async def _failed(self, fault: Exception, exit_: "_Exit", about: dict[str, str]) -> None:
        if exit_.stalled:
            exit_.status = CLIENT_CLOSED_STATUS
            return
        if exit_.started and _was_outage(fault):
            _log.warning("admin_answer_cut", **about)
        else:
            _log.error("request_failed", **about, exc_info=fault)
        await exit_.refuse(told(fault))

    def _note(self, call: Call, scope: Scope, exit_: "_Exit", note: AccessNote) -> None:
        route = _route(scope)
        self._metrics.add(self._metrics.requests, (route, str(exit_.status)))
        self._access_log.write(call, route=route, status=exit_.status, sent_bytes=exit_.sent_bytes, note=note)


class _Read:
    """Hands out a body that was read before, then whatever the connection says next."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Any:
        body, self._body = self._body, None
        if body is None:
            return await self._receive()
        return {"type": "http.request", "body": body, "more_body": False}


class _Exit:
    """Sends one answer: the framework's with what every answer has, or a refusal."""

    def __init__(
        self,
        send: Send,
        request_id: bytes,
        *,
        head_only: bool,
        in_dashboard: bool,
        to_person: bool,
        write_timeout_s: float,
    ) -> None:
        self._send = send
        self._request_id = request_id
        self._head_only = head_only
        self._to_person = to_person
        self._common = (*_COMMON, *SECURITY_HEADERS) if in_dashboard else _COMMON
        self._write_timeout_s = write_timeout_s
        self.started = False
        self.stalled = False
        self.status = 0
        self.sent_bytes = 0

    async def send(self, message: Message) -> None:
        """Pass on what the framework sends; raises `TimeoutError` if the client does not take it."""
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            own = ((b"x-request-id", self._request_id), *self._common)
            message["headers"] = [*message["headers"], *own]
        elif message["type"] == "http.response.body":
            self.sent_bytes += len(message["body"])
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await self._send(message)
        except TimeoutError:
            self.stalled = True
            raise

    async def refuse(self, problem: Told) -> None:
        """Say no, unless an answer has begun: the server then closes the connection, unfinished as it is."""
        if self.started:
            return
        request_id = self._request_id.decode()
        content_type, body = PROBLEM_JSON.encode(), problem.body(request_id)
        if self._to_person:
            content_type, body = HTML, trouble_page(problem.kind.title, problem.detail, request_id)
        headers = ((b"content-type", content_type), *problem.headers)
        await self.show(Page(problem.kind.status, headers, body))

    async def show(self, page: Page) -> None:
        """Send a whole answer."""
        head = (*page.headers, (b"content-length", b"%d" % len(page.body)))
        await self.send({"type": "http.response.start", "status": page.status, "headers": head})
        sent = b"" if self._head_only else page.body
        await self.send({"type": "http.response.body", "body": sent, "more_body": False})


def _was_outage(fault: BaseException) -> bool:
    """Tell whether an answer broke off for want of a store: the framework wraps what was wrong, a group does too."""
    if isinstance(fault, BaseExceptionGroup):
        return all(map(_was_outage, fault.exceptions))
    if isinstance(fault, LitestarException) and fault.__cause__ is not None:
        return _was_outage(fault.__cause__)
    return isinstance(fault, Exception) and is_outage(fault)


def _exit(call: Call, scope: Scope, send: Send, write_timeout_s: float) -> _Exit:
    in_dashboard = is_dashboard(scope["path"])
    return _Exit(
        send,
        call.request_id_text,
        head_only=call.method == "HEAD",
        in_dashboard=in_dashboard,
        to_person=in_dashboard and call.method == "GET" and wants_page(scope["headers"]),
        write_timeout_s=write_timeout_s,
    )


def _route(scope: Scope) -> str:
    """Return what log and metrics call a request: its template, never its path."""
    return str(scope.get("path_template") or NO_ROUTE)


def _media_type(header: bytes) -> bytes:
    return header.partition(b";")[0].strip().lower()
