"""Live, ready, and the figures. Answers are bare: they tell a stranger nothing about what stands behind."""

import secrets
import time
from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, get
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from app.metrics import Metrics

STORE_CONFIRMED_WITHIN_S: Final = 5.0


class Readiness(msgspec.Struct, frozen=True):
    """What this process needs before it should get traffic; read from what the followers last saw."""

    postgres_ok_at: Callable[[], float]
    redis_ok_at: Callable[[], float]
    has_model_table: Callable[[], bool]
    draining: Callable[[], bool]

    def ready(self, *, without_redis: bool) -> bool:
        """Tell whether everything is there. `without_redis` keeps a degraded replica in service."""
        oldest = time.monotonic() - STORE_CONFIRMED_WITHIN_S
        return (
            not self.draining()
            and self.postgres_ok_at() >= oldest
            and self.has_model_table()
            and (without_redis or self.redis_ok_at() >= oldest)
        )


class Probes:
    """The probes' state: None until the process has started."""

    def __init__(self) -> None:
        self.readiness: Readiness | None = None


def _status(*, ok: bool) -> Response[dict[str, str]]:
    return Response({"status": "ok" if ok else "unavailable"}, status_code=200 if ok else 503)


def health_handlers(probes: Probes) -> list[HTTPRouteHandler]:
    """Return the handlers that every process mounts."""

    @get("/healthz", operation_id="live", summary="The event loop turns", include_in_schema=False)
    async def live() -> Response[dict[str, str]]:
        return _status(ok=True)

    @get("/readyz", operation_id="ready", summary="The process should get traffic", include_in_schema=False)
    async def ready(
        exclude: Annotated[str | None, QueryParameter(name="exclude")] = None,
    ) -> Response[dict[str, str]]:
        readiness = probes.readiness
        return _status(ok=readiness is not None and readiness.ready(without_redis=exclude == "redis"))

    return [live, ready]


def metrics_handler(metrics: Metrics, *, token: str | None, refresh: Callable[[], None]) -> HTTPRouteHandler:
    """Return the handler of `/metrics`. Without the token it is not there, to nobody's knowledge."""

    @get("/metrics", operation_id="metrics", include_in_schema=False)
    async def exposition(request: Request[Any, Any, Any]) -> Response[bytes]:
        given = request.headers.get("authorization", "")
        if token is None or not secrets.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise NotFoundException
        refresh()
        # As a header: to a media type that is text the framework would add a second charset.
        return Response(
            metrics.exposition(), headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    return exposition
