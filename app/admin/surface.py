"""The framework's part of the admin surface: its handlers, what they are given, and their document."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

import structlog
from litestar import Litestar, Request, Response, Router
from litestar.di import Provide
from litestar.enums import HttpMethod
from litestar.exceptions import ValidationException
from litestar.handlers import BaseRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.params import ParameterKwarg, QueryParameter
from litestar.typing import FieldDefinition
from litestar.utils.signature import ParsedSignature
from msgspec import Meta

from app.admin.administration import MAX_BODY_BYTES, Administration
from app.admin.audit import AuditController
from app.admin.backends import BackendController
from app.admin.configuration import ConfigurationController
from app.admin.contract import Nothing, decoded
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
from app.admin.wording import explained

ROOT: Final = "/admin/v1"
NO_BODY: Final = "Send a JSON object as the body; {} will do where every field may be left out."

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
        before_request=_check,
        exception_handlers={Exception: _answer},
        openapi_config=OpenAPIConfig(title="admin", version="1") if described else None,
        logging_config=None,
        request_max_body_size=MAX_BODY_BYTES,
    )


async def _check(request: AdminRequest) -> Response[None] | None:
    """Refuse what no handler would look at, and say which methods there are."""
    _check_parameters(request)
    if request.method == HttpMethod.OPTIONS:
        # The framework's own answer may have been made before it knew of every method.
        template = request.scope["path_template"]
        methods = next(each.methods for each in request.app.routes if each.path_format == template)
        return Response(None, status_code=204, headers={"allow": ", ".join(sorted(methods))})
    if (
        request.method == HttpMethod.POST
        and "data" not in request.route_handler.parsed_fn_signature.parameters
    ):
        body = await request.body()
        if body:
            decoded(body, Nothing)
    return None


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
    return tuple(
        dict.fromkeys(
            str(each.kwarg_definition.name)
            for each in _read_by(handler)
            if isinstance(each.kwarg_definition, QueryParameter)
        )
    )


def _read_by(handler: BaseRouteHandler) -> Iterator[FieldDefinition]:
    """Yield what a handler, or what it is handed, reads from the request."""
    dependencies = handler.resolve_dependencies()

    def read_by(signature: ParsedSignature) -> Iterator[FieldDefinition]:
        for name, each in signature.parameters.items():
            if name in dependencies:
                yield from read_by(dependencies[name].parsed_fn_signature)
            else:
                yield each

    return read_by(handler.parsed_fn_signature)


def _invalid(found: list[Any], handler: BaseRouteHandler) -> InvalidFields:
    """Return what the framework found wrong with a request, by the names that stand in it."""
    read = {each.name: each for each in _read_by(handler)}
    return InvalidFields(_field_error(each, read.get(each.get("key", ""))) for each in found)


def _field_error(found: dict[str, str], read: FieldDefinition | None) -> FieldError:
    key = found.get("key", "")
    if key == "data":
        return FieldError(NO_BODY, pointer="#")
    asked = None if read is None else read.kwarg_definition
    if read is None or not isinstance(asked, ParameterKwarg):
        return FieldError(explained(found["message"], None, in_address=True), parameter=key)
    note = Meta(pattern=asked.pattern, description=asked.description)
    return FieldError(
        explained(found["message"], read.annotation, note, in_address=True), parameter=asked.name or key
    )


def _answer(request: AdminRequest, error: Exception) -> Response[bytes]:
    """Answer whatever a handler or the framework raised."""
    if isinstance(error, ValidationException) and isinstance(error.extra, list):
        error = _invalid(error.extra, request.route_handler)
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
