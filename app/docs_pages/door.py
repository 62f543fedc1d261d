"""The door of the documentation: who may read, and what a browser may do with what it gets."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog
from litestar.enums import ScopeType
from litestar.types import Receive, Scope, Send

from app.admin.errors import AdminError
from app.admin.logins import Logins
from app.admin.problems import PROBLEM_JSON, told
from app.docs_pages.pages import DOCUMENT, Page, document_page, static_pages
from app.gateway.access_log import AccessLog, AccessNote
from app.gateway.call import Call, call_of
from app.gateway.downstream import Downstream
from app.gateway.endpoint import CLIENT_CLOSED_STATUS, TWO_ENDS
from app.metrics import Metrics
from app.openapi import render_document
from app.refusals import NO_ROUTE
from domain.errors import BrokenFraming, GatewayError, MethodNotAllowed, Unauthenticated, UnknownPath

_READING: Final = ("GET", "HEAD")
_CHALLENGE: Final = ((b"www-authenticate", b'Basic realm="neuronetz-gateway", charset="UTF-8"'),)
"""What makes a browser ask for a name, which is ignored, and a password, which is the key."""
_NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    b" font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Both viewers write styles and data: images into the page. Scripts come from files, and answers from here alone."""
_HEADERS: Final = (
    _NOSNIFF,
    (b"content-security-policy", _POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    # Kept, but asked for again each time: a release changes pages and scripts together, under the same paths.
    (b"cache-control", b"private, no-cache"),
)
_OF_REFUSALS: Final = (_NOSNIFF, (b"cache-control", b"no-store"))
_OK: Final = 200
_NOT_MODIFIED: Final = 304

_log = structlog.get_logger()


class DocsDoor:
    """The ASGI application at `/docs` and below."""

    def __init__(
        self,
        logins: Callable[[], Logins] | None,
        *,
        metrics: Metrics,
        access_log: AccessLog,
        write_timeout_s: float,
    ) -> None:
        """`logins` returns who proves admin keys; None lets everybody read.

        A client that takes nothing for `write_timeout_s` has left.
        """
        self._logins: Final = logins
        self._metrics: Final = metrics
        self._access_log: Final = access_log
        self._write_timeout_s: Final = write_timeout_s
        self._pages: Final = {path.encode(): page for path, page in static_pages()}
        self._document: Final = _Document()
        self._routes: Final = {path: path.decode() for path in (*self._pages, DOCUMENT.encode())}

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - nothing here reads a body
        """Answer one request."""
        if scope["type"] != ScopeType.HTTP:
            return
        call = call_of(scope)
        known = dict(scope["headers"]).get(b"if-none-match", b"")
        downstream = Downstream(send, request_id=call.request_id_text, head_only=call.method == "HEAD")
        note = AccessNote()
        try:
            saying = await self._found(call, known, downstream, note)
            async with asyncio.timeout(self._write_timeout_s):
                await saying
        except TimeoutError:
            downstream.status = CLIENT_CLOSED_STATUS
        finally:
            self._note(call, downstream, note)

    async def _found(
        self, call: Call, known: bytes, downstream: Downstream, note: AccessNote
    ) -> Coroutine[Any, Any, None]:
        """Find out what there is to say, and return the saying of it."""
        try:
            page = await self._page(call, note)
        except (GatewayError, AdminError) as refusal:
            return _refuse(refusal, downstream)
        except Exception as fault:  # noqa: BLE001 - whatever it is, the caller gets an answer and the log the trace
            _log.exception(
                "request_failed",
                request_id=call.request_id_text.decode(),
                route=self._routes.get(call.raw_path, NO_ROUTE),
            )
            return _refuse(fault, downstream)
        return _send(page, known, downstream)

    async def _page(self, call: Call, note: AccessNote) -> Page:
        if call.framing_in_doubt:
            raise BrokenFraming(TWO_ENDS)
        if self._logins is not None:
            caller = await self._logins().caller(call)
            note.key = caller.principal.key_prefix
        if call.raw_path not in self._routes:
            raise UnknownPath
        if call.method not in _READING:
            raise MethodNotAllowed(", ".join(_READING))
        return self._pages.get(call.raw_path) or await self._document.page()

    def _note(self, call: Call, downstream: Downstream, note: AccessNote) -> None:
        route = self._routes.get(call.raw_path, NO_ROUTE)
        self._metrics.add(self._metrics.requests, (route, str(downstream.status)))
        self._access_log.write(
            call, route=route, status=downstream.status, sent_bytes=downstream.sent_bytes, note=note
        )


class _Document:
    """The OpenAPI document, made when somebody first reads it: that takes a second, which no start should wait for."""

    def __init__(self) -> None:
        self._making: asyncio.Task[Page] | None = None

    async def page(self) -> Page:
        """Return it. Whoever comes while it is made waits for the same one."""
        if self._making is None:
            self._making = asyncio.create_task(asyncio.to_thread(lambda: document_page(render_document())))
        return await asyncio.shield(self._making)


async def _send(page: Page, known: bytes, downstream: Downstream) -> None:
    """Send a page, or that it is the one which the client has."""
    headers = (*_HEADERS, (b"etag", page.etag))
    if page.etag in known:
        await downstream.start(_NOT_MODIFIED, page.media_type, headers)
        await downstream.finish()
        return
    encoding = ((b"content-encoding", b"gzip"),) if page.zipped else ()
    await downstream.answer(_OK, page.media_type, page.body, (*headers, *encoding))


async def _refuse(error: Exception, downstream: Downstream) -> None:
    problem = told(error)
    headers = _CHALLENGE if isinstance(error, Unauthenticated) else problem.headers
    body = problem.body(downstream.request_id.decode())
    await downstream.answer(problem.kind.status, PROBLEM_JSON.encode(), body, (*_OF_REFUSALS, *headers))
