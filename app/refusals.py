"""What no route of ours answers: paths that do not exist, wrong methods, requests the framework finds broken."""

from typing import Any, Final, NamedTuple

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.types import HTTPScope, Send

from app.admin.problems import PROBLEM_JSON, UNKEPT, told
from app.gateway.access_log import AccessLog, AccessNote
from app.gateway.call import call_of
from app.gateway.downstream import JSON, SERVER, Downstream
from app.metrics import Metrics
from app.problems import Headers, problem_of, render
from domain.errors import BadRequest, MethodNotAllowed, UnknownPath
from domain.values import ApiFamily

FAMILIES: Final = (
    ("/v1/messages", ApiFamily.ANTHROPIC),
    ("/v1/", ApiFamily.OPENAI),
)
"""Whose shape errors have below a path, the closer one first."""
ADMIN_PREFIX: Final = "/admin/"
NO_ROUTE: Final = "(none)"
"""What log and metrics call these requests. The path itself could be anything, so it is in neither."""

_log = structlog.get_logger()


def family_of(path: str) -> ApiFamily:
    """Return whose error shape a path speaks, also for paths that do not exist."""
    return next((family for prefix, family in FAMILIES if path.startswith(prefix)), ApiFamily.NATIVE)


class Refusals:
    """Says no in our words and shapes, with a request id, and leaves one log line and one count."""

    def __init__(self, metrics: Metrics, access_log: AccessLog) -> None:
        self._metrics = metrics
        self._access_log = access_log

    def noted(self, scope: HTTPScope, error: Exception) -> "Noted":
        """Log and count a refusal, and return it as it has to be told."""
        call = call_of(scope)
        noted = _said(error, scope["path"], call.request_id_text.decode())
        self._metrics.add(self._metrics.requests, (NO_ROUTE, str(noted.status)))
        self._access_log.write(
            call, route=NO_ROUTE, status=noted.status, sent_bytes=len(noted.body), note=AccessNote()
        )
        return noted

    async def unknown_path(self, scope: HTTPScope, send: Send) -> None:
        """Answer that there is nothing at a path."""
        noted = self.noted(scope, UnknownPath())
        head_only = scope.get("method") == "HEAD"
        downstream = Downstream(send, request_id=noted.request_id.encode(), head_only=head_only)
        await downstream.answer(noted.status, noted.content_type, noted.body, noted.headers)

    def http(self, request: Request[Any, Any, Any], exc: HTTPException) -> Response[bytes]:
        """Answer what the framework refused."""
        if isinstance(exc, MethodNotAllowedException):
            return self._answer(request, MethodNotAllowed(str((exc.headers or {}).get("allow", ""))))
        if exc.status_code == 404:  # noqa: PLR2004
            return self._answer(request, UnknownPath())
        if exc.status_code < 500:  # noqa: PLR2004
            return self._answer(request, BadRequest("The request is malformed."))
        return self.fault(request, exc)

    def fault(self, request: Request[Any, Any, Any], exc: Exception) -> Response[bytes]:
        """Answer what is a mistake of ours."""
        answer = self._answer(request, exc)
        _log.error(
            "request_failed",
            request_id=answer.headers["x-request-id"],
            route=request.scope.get("path_template", ""),
            exc_info=exc,
        )
        return answer

    def _answer(self, request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        noted = self.noted(request.scope, error)
        headers = {name.decode(): value.decode() for name, value in noted.headers}
        headers |= {"x-request-id": noted.request_id, SERVER[0].decode(): SERVER[1].decode()}
        return Response(
            noted.body, status_code=noted.status, headers=headers, media_type=noted.content_type.decode()
        )


class Noted(NamedTuple):
    """A refusal ready to send; its headers do not name its id."""

    request_id: str
    status: int
    content_type: bytes
    body: bytes
    headers: Headers


def _said(error: Exception, path: str, request_id: str) -> Noted:
    if path.startswith(ADMIN_PREFIX):
        admin = told(error)
        return Noted(
            request_id,
            admin.kind.status,
            PROBLEM_JSON.encode(),
            admin.body(request_id),
            (*admin.headers, *UNKEPT),
        )
    problem = problem_of(error)
    return Noted(
        request_id,
        problem.status,
        JSON,
        render(problem, family_of(path), request_id.encode()),
        problem.headers,
    )
