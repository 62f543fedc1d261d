"""The composition root of the HTTP process: every object is made here or in the lifespan, and handed down."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, ControllerRouterHandler

from app.admin.administration import Administration
from app.admin.dashboard.paths import HOME
from app.admin.door import AdminDoor
from app.admin.surface import admin_service
from app.docs_pages.door import DocsDoor
from app.docs_pages.pages import DOCS
from app.entrance import Entrance
from app.gateway.access_log import AccessLog
from app.gateway.cors import Cors
from app.gateway.endpoint import Endpoint
from app.gateway.gate import Gate
from app.gateway.gateway import Gateway
from app.gateway.lingering import Lingering
from app.gateway.path_keys import PathKeys
from app.gateway.routes import public_routes
from app.health import Probes, health_handlers, metrics_handler
from app.lifespan import running_gateway
from app.metrics import Metrics
from app.refusals import ADMIN_PREFIX, Refusals
from app.settings import AppSettings, Surface, load_app_settings
from db.logs import configure_logging
from db.parent_watch import exit_with_parent


def create_from_environment() -> ASGIApp:
    """Build the application of a granian worker process, which must not outlive its parent."""
    settings = load_app_settings(os.environ)
    configure_logging(level=settings.log_level, log_format=settings.log_format, process="app")
    exit_with_parent()
    return create_app(settings)


def create_app(settings: AppSettings) -> ASGIApp:
    """Build the application. Nothing connects before the lifespan starts."""
    metrics = Metrics(multiprocess_dir=os.environ.get("PROMETHEUS_MULTIPROC_DIR"))
    entrance = Entrance[Gateway]("gateway")
    admin = Entrance[Administration]("administration")
    probes = Probes()
    endpoints: dict[str, Endpoint] = {}
    below: dict[str, Endpoint] = {}
    handlers: list[ControllerRouterHandler] = list(health_handlers(probes))
    if Surface.OPS in settings.surfaces:
        token = settings.metrics_token
        handlers.append(
            metrics_handler(
                metrics,
                token=token.get_secret_value() if token is not None else None,
                refresh=lambda: entrance.within().refresh_metrics(),
            )
        )
    access_log = AccessLog(settings.log_format)
    refusals = Refusals(metrics, access_log)
    if Surface.TENANT in settings.surfaces:
        lingering = Lingering()
        for route in public_routes(entrance.within, frozenset(settings.extra_request_fields)):
            endpoint = Endpoint(route, metrics=metrics, access_log=access_log, lingering=lingering)
            if route.prefix is not None:
                below[route.prefix.decode()] = endpoint
            else:
                endpoints[route.template] = endpoint

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with running_gateway(settings, metrics=metrics, probes=probes, admin=admin) as gateway:
            entrance.open(gateway)
            yield
        access_log.flush()

    service = Litestar(
        route_handlers=handlers,
        lifespan=[lifespan],
        exception_handlers={HTTPException: refusals.http, Exception: refusals.fault},
        openapi_config=None,
        logging_config=None,
        request_max_body_size=settings.max_body_bytes,
    )
    exact: dict[str, ASGIApp] = {path: endpoint.answer for path, endpoint in endpoints.items()}
    prefixes: dict[str, ASGIApp] = {prefix: endpoint.answer for prefix, endpoint in below.items()}
    if Surface.ADMIN in settings.surfaces:
        door = AdminDoor(
            admin_service(admin.within),
            admin.within,
            metrics=metrics,
            access_log=access_log,
            write_timeout_s=settings.write_timeout_s,
        )
        prefixes[ADMIN_PREFIX] = exact[HOME] = door.answer
    if Surface.DOCS in settings.surfaces:
        docs = DocsDoor(
            None if settings.docs_public else lambda: admin.within().logins,
            metrics=metrics,
            access_log=access_log,
            write_timeout_s=settings.write_timeout_s,
        )
        exact[DOCS] = docs.answer
        prefixes[f"{DOCS}/"] = docs.answer
    served: ASGIApp = Gate(
        service,
        endpoints=exact,
        below=prefixes,
        refusals=refusals,
    )
    if settings.path_keys:
        served = PathKeys(served, endpoints=endpoints, below=below, refusals=refusals)
    if settings.cors_origins:
        served = Cors(served, origins=settings.cors_origins, metrics=metrics, access_log=access_log)
    return served
