"""The outermost ASGI layer: the tenant surface by its exact paths, and the framework behind one spelling per path."""

from collections.abc import Mapping
from typing import Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7

from app.gateway.downstream import SERVER
from app.refusals import Refusals

_ESCAPABLE_PREFIX: Final = b"/v1/models/"
_DOTS: Final = frozenset({b".", b".."})


class Gate:
    """Refuses every path that is not written in its one canonical form.

    Litestar itself, like most routers, also accepts `//x`, `/x/` and `/%78`; an edge proxy that guards a path
    would then guard nothing. The tenant surface does not pass through Litestar at all: its paths are few and
    fixed, its endpoints compare their raw path themselves, and routing, two exception layers and their wrapped
    `send` would cost more than the rest of this module's work (docs/decisions/0004). `endpoints` maps its exact
    paths, `below` path prefixes to the endpoint of everything that follows them.
    """

    def __init__(
        self,
        service: ASGIApp,
        *,
        endpoints: Mapping[str, ASGIApp],
        below: Mapping[str, ASGIApp],
        refusals: Refusals,
    ) -> None:
        self._service: Final = service
        self._endpoints: Final = dict(endpoints)
        self._below: Final = dict(below)
        self._refusals: Final = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the connection on, or answer it."""
        if scope["type"] != ScopeType.HTTP:
            await self._service(scope, receive, send)
            return
        endpoint = self._endpoints.get(scope["path"])
        if endpoint is not None:
            await endpoint(scope, receive, send)
            return
        if not is_canonical(scope["raw_path"], scope["path"]):
            await self._refusals.unknown_path(scope, send)
            return
        for prefix, endpoint in self._below.items():
            if scope["path"].startswith(prefix):
                await endpoint(scope, receive, send)
                return

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start" and not _has_id(message["headers"]):
                request_id = (b"x-request-id", str(uuid7()).encode())
                message["headers"] = [*message["headers"], request_id, SERVER]
            await send(message)

        await self._service(scope, receive, send_with_id)


def _has_id(headers: object) -> bool:
    return any(name == b"x-request-id" for name, _ in headers)  # type: ignore[attr-defined] # ASGI's loose typing


def is_canonical(raw_path: bytes, path: str) -> bool:
    """Tell whether a path is written in the only way we serve: plain bytes, single slashes, no dot segments.

    The ids of `/v1/models/` may escape `/` and `:`; their endpoint checks that itself.
    """
    if not raw_path.startswith(_ESCAPABLE_PREFIX) and raw_path != path.encode("utf-8", "replace"):
        return False
    if not raw_path.startswith(b"/") or b"//" in raw_path or (raw_path.endswith(b"/") and raw_path != b"/"):
        return False
    return b"/." not in raw_path or _DOTS.isdisjoint(raw_path.split(b"/"))
