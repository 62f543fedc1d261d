"""The framework's part of the admin surface: its handlers, what they are given, and their document."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

import structlog
from litestar import Litestar, Request, Response, Router
from litestar.di import Provide
from litestar.handlers import BaseRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.params import QueryParameter
from litestar.utils.signature import ParsedSignature

from app.admin.administration import MAX_BODY_BYTES, Administration
from app.admin.audit import AuditController
from app.admin.backends import BackendController
from app.admin.configuration import ConfigurationController
from app.admin.dashboard import paths
from app.admin.dashboard.controller import DashboardController
from app.admin.errors import FieldError, InvalidFields
from app.admin.every_key import EveryKeyController
from app.admin.grants import KeyGrantController, TenantGrantController
from app.admin.jobs import JobController
from app.admin.keys import AdminKeyController, TenantKeyController
from app.admin.limits import KeyLimitController, TenantLimitController
from app.admin.logins import Caller
from app.admin.me import MeController
from app.admin.models import ModelController
from app.admin.policies import (
    KeyGrantPolicyController,
    KeyPolicyController,
    TenantGrantPolicyController,
    TenantPolicyController,
)
from app.admin.problems import INTERNAL_KIND, PROBLEM_JSON, UNAVAILABLE_KIND, told
from app.admin.revocations import RevocationController
from app.admin.tenants import TenantController
from app.admin.usage import UsageController

ROOT: Final = "/admin/v1"

_log = structlog.get_logger()

AdminRequest = Request[Caller, Any, Any]


def admin_service(within: Callable[[], Administration], *, described: bool = False) -> Litestar:
    """Build the application that stands behind the door.

    Parameters
    ----------
    within
        Returns what runs; asked at each request.
    described
        Whether it can describe itself. Serving needs no description.
    """

    def admin() -> Administration:
        return within()

    def caller(request: AdminRequest) -> Caller:
        return request.user

    return Litestar(
        route_handlers=[
            Router(
                path=ROOT,
                route_handlers=[
                    MeController,
                    TenantController,
                    TenantKeyController,
                    AdminKeyController,
                    EveryKeyController,
                    TenantLimitController,
                    KeyLimitController,
                    TenantGrantController,
                    KeyGrantController,
                    TenantPolicyController,
                    KeyPolicyController,
                    TenantGrantPolicyController,
                    KeyGrantPolicyController,
                    AuditController,
                    RevocationController,
                    BackendController,
                    ModelController,
                    UsageController,
                    JobController,
                    ConfigurationController,
                ],
            ),
            Router(path=paths.ROOT, route_handlers=[DashboardController]),
        ],
        dependencies={
            "admin": Provide(admin, sync_to_thread=False),
            "caller": Provide(caller, sync_to_thread=False),
        },
        before_request=_check_parameters,
        exception_handlers={Exception: _answer},
        openapi_config=OpenAPIConfig(title="admin", version="1") if described else None,
        logging_config=None,
        request_max_body_size=MAX_BODY_BYTES,
    )


def _check_parameters(request: AdminRequest) -> None:
    """Refuse a parameter nobody asked for, or one given twice: a misspelt filter must not answer with everything.

    And one that holds a NUL, which Postgres takes in no text.
    """
    known = query_parameters(request.route_handler)
    given: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        given.setdefault(name, []).append(value)
    errors = []
    for name, values in given.items():
        shown = name[:100]
        if name not in known:
            there = f"; there are {', '.join(known)}" if known else ""
            errors.append(FieldError(f"There is no such parameter here{there}.", parameter=shown))
        elif len(values) > 1:
            errors.append(FieldError("It is given more than once.", parameter=shown))
        elif "\0" in values[0]:
            errors.append(FieldError("It holds a NUL character, which no text here does.", parameter=shown))
    if errors:
        raise InvalidFields(errors)


@cache
def query_parameters(handler: BaseRouteHandler) -> tuple[str, ...]:
    """Return the names of the parameters that a handler, or what it is handed, reads from the URL's query."""
    dependencies = handler.resolve_dependencies()

    def read_by(signature: ParsedSignature) -> Iterator[str]:
        for name, each in signature.parameters.items():
            if isinstance(each.kwarg_definition, QueryParameter):
                yield str(each.kwarg_definition.name)
            elif name in dependencies:
                yield from read_by(dependencies[name].parsed_fn_signature)

    return tuple(dict.fromkeys(read_by(handler.parsed_fn_signature)))


def _answer(request: AdminRequest, error: Exception) -> Response[bytes]:
    """Answer whatever a handler or the framework raised."""
    problem = told(error)
    request_id = str(request.user.actor.request_id)
    if problem.kind is UNAVAILABLE_KIND:
        _log.warning("admin_request_unavailable", request_id=request_id, error=type(error).__name__)
    if problem.kind is INTERNAL_KIND:
        _log.error(
            "request_failed",
            request_id=request_id,
            route=request.scope.get("path_template", ""),
            exc_info=error,
        )
    return Response(
        problem.body(request_id),
        status_code=problem.kind.status,
        headers={name.decode(): value.decode() for name, value in problem.headers},
        media_type=PROBLEM_JSON,
    )
