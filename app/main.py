"""The composition root of the HTTP process: every object is made here or in the lifespan, and handed down."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from litestar import Litestar, Request, Response, asgi
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.types import ASGIApp, ControllerRouterHandler

from app.gateway.access_log import AccessLog
from app.gateway.endpoint import Endpoint
from app.gateway.gate import Gate
from app.gateway.gateway import Gateway
from app.gateway.routes import public_routes
from app.health import Probes, health_handlers, metrics_handler
from app.lifespan import running_gateway
from app.metrics import Metrics
from app.problems import problem_of, render
from app.settings import AppSettings, Surface, load_app_settings
from db.logs import configure_logging
from db.parent_watch import exit_with_parent
from domain.errors import BadRequest, MethodNotAllowed, UnknownPath
from domain.values import ApiFamily

OPENAI_PREFIX: Final = "/v1/"

_log = structlog.get_logger()


class Entrance:
    """Where handlers find the running gateway; empty until the lifespan has started it."""

    def __init__(self) -> None:
        self._gateway: Gateway | None = None

    def open(self, gateway: Gateway) -> None:
        """Let requests in."""
        self._gateway = gateway

    def gateway(self) -> Gateway:
        """Return the running gateway. No request arrives before the lifespan has started."""
        if self._gateway is None:
            raise RuntimeError("the gateway has not started")
        return self._gateway


def create_from_environment() -> ASGIApp:
    """Build the application of a granian worker process, which must not outlive its parent."""
    settings = load_app_settings(os.environ)
    configure_logging(level=settings.log_level, log_format=settings.log_format, process="app")
    exit_with_parent()
    return create_app(settings)


def create_app(settings: AppSettings) -> ASGIApp:
    """Build the application. Nothing connects before the lifespan starts."""
    metrics = Metrics(multiprocess_dir=os.environ.get("PROMETHEUS_MULTIPROC_DIR"))
    entrance = Entrance()
    probes = Probes()
    raw_paths: set[str] = set()
    below: dict[str, ASGIApp] = {}
    handlers: list[ControllerRouterHandler] = list(health_handlers(probes))
    if Surface.OPS in settings.surfaces:
        token = settings.metrics_token
        handlers.append(
            metrics_handler(
                metrics,
                token=token.get_secret_value() if token is not None else None,
                refresh=lambda: entrance.gateway().refresh_metrics(),
            )
        )
    if Surface.TENANT in settings.surfaces:
        access_log = AccessLog(settings.log_format)
        for route in public_routes(entrance.gateway, frozenset(settings.extra_request_fields)):
            endpoint = Endpoint(route, metrics=metrics, access_log=access_log)
            if route.prefix is not None:
                below[route.prefix.decode()] = endpoint.answer
                continue
            handlers.append(asgi(route.template, copy_scope=False)(endpoint.answer))
            raw_paths.add(route.template)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with running_gateway(settings, metrics=metrics, probes=probes) as gateway:
            entrance.open(gateway)
            yield

    service = Litestar(
        route_handlers=handlers,
        lifespan=[lifespan],
        exception_handlers={HTTPException: _router_refusal, Exception: _fault},
        openapi_config=None,
        logging_config=None,
        request_max_body_size=settings.max_body_bytes,
    )
    return Gate(service, handled=frozenset(raw_paths), below=below, family_of=family_of)


def family_of(path: str) -> ApiFamily:
    """Return whose error shape a path speaks, also for paths that do not exist."""
    return ApiFamily.OPENAI if path.startswith(OPENAI_PREFIX) else ApiFamily.NATIVE


def _answer(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    problem = problem_of(error)
    headers = {name.decode(): value.decode() for name, value in problem.headers}
    body = render(problem, family_of(request.scope["path"]))
    return Response(body, status_code=problem.status, headers=headers, media_type="application/json")


def _router_refusal(request: Request[Any, Any, Any], exc: HTTPException) -> Response[bytes]:
    """Say what the framework refused in our words and shapes."""
    if isinstance(exc, MethodNotAllowedException):
        return _answer(request, MethodNotAllowed(str((exc.headers or {}).get("allow", ""))))
    if exc.status_code == 404:  # noqa: PLR2004
        return _answer(request, UnknownPath())
    if exc.status_code < 500:  # noqa: PLR2004
        return _answer(request, BadRequest("The request is malformed."))
    return _fault(request, exc)


def _fault(request: Request[Any, Any, Any], exc: Exception) -> Response[bytes]:
    _log.error("request_failed", path=request.scope["path"], exc_info=exc)
    return _answer(request, exc)
