"""What no route of ours answers: paths that do not exist, wrong methods, requests the framework finds broken."""

from typing import Any, Final

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.types import Scope
from uuid_utils import uuid7

from app.gateway.access_log import AccessLog, AccessNote
from app.gateway.downstream import SERVER
from app.metrics import Metrics
from app.problems import Problem, problem_of, render
from domain.errors import BadRequest, MethodNotAllowed, UnknownPath
from domain.values import ApiFamily

FAMILIES: Final = (
    ("/v1/messages", ApiFamily.ANTHROPIC),
    ("/v1/", ApiFamily.OPENAI),
)
"""Whose shape errors have below a path, the closer one first."""
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

    def noted(self, scope: Scope, problem: Problem) -> tuple[str, bytes]:
        """Log and count a refusal; return its request id and its body."""
        request_id = str(uuid7())
        body = render(problem, family_of(scope["path"]), request_id.encode())
        client = scope.get("client")
        self._metrics.add(self._metrics.requests, (NO_ROUTE, str(problem.status)))
        self._access_log.write(
            request_id=request_id,
            client_request_id=None,
            method=str(scope.get("method")),
            route=NO_ROUTE,
            status=problem.status,
            seconds=0.0,
            sent_bytes=len(body),
            client=client[0] if client else "",
            note=AccessNote(),
        )
        return request_id, body

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
        problem = problem_of(error)
        request_id, body = self.noted(request.scope, problem)
        headers = {name.decode(): value.decode() for name, value in problem.headers}
        headers |= {"x-request-id": request_id, SERVER[0].decode(): SERVER[1].decode()}
        return Response(body, status_code=problem.status, headers=headers, media_type="application/json")
