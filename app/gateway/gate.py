"""The outermost ASGI layer: one spelling per path, and a request id on what the framework itself answers."""

from collections.abc import Callable, Mapping
from typing import Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7

from app.gateway.downstream import JSON, SERVER, Downstream
from app.problems import problem_of, render
from domain.errors import UnknownPath
from domain.values import ApiFamily


class Gate:
    """Refuses every path that is not written in its one canonical form.

    Litestar itself, like most routers, also accepts `//x`, `/x/` and `/%78`; an edge proxy that guards a path
    would then guard nothing. The relay's own endpoints (`handled`) compare their raw path themselves and make
    their own request ids, so that the hot path pays for one set look-up here. `below` maps path prefixes to
    the endpoint of everything that follows them: Litestar cannot route an ASGI handler by path parameters
    (it answers 500).
    """

    def __init__(
        self,
        service: ASGIApp,
        *,
        handled: frozenset[str],
        below: Mapping[str, ASGIApp],
        family_of: Callable[[str], ApiFamily],
    ) -> None:
        self._service: Final = service
        self._handled: Final = handled
        self._below: Final = dict(below)
        self._family_of: Final = family_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the connection on, or answer it."""
        if scope["type"] != ScopeType.HTTP or scope["path"] in self._handled:
            await self._service(scope, receive, send)
            return
        request_id = str(uuid7()).encode()
        if not is_canonical(scope["raw_path"], scope["path"]):
            refused = problem_of(UnknownPath())
            downstream = Downstream(send, request_id=request_id, head_only=scope["method"] == "HEAD")
            body = render(refused, self._family_of(scope["path"]))
            await downstream.answer(refused.status, JSON, body)
            return
        for prefix, endpoint in self._below.items():
            if scope["path"].startswith(prefix):
                await endpoint(scope, receive, send)
                return

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start" and not _has_id(message["headers"]):
                message["headers"] = [*message["headers"], (b"x-request-id", request_id), SERVER]
            await send(message)

        await self._service(scope, receive, send_with_id)


def _has_id(headers: object) -> bool:
    return any(name == b"x-request-id" for name, _ in headers)  # type: ignore[attr-defined] # ASGI's loose typing


def is_canonical(raw_path: bytes, path: str) -> bool:
    """Tell whether a path is written in the only way we serve: plain bytes, single slashes, no dot segments.

    The ids of `/v1/models/` may escape `/` and `:`; their endpoint checks that itself.
    """
    if raw_path.startswith(b"/v1/models/"):
        return b"//" not in raw_path
    if raw_path != path.encode("utf-8", "replace") or b"//" in raw_path:
        return False
    if len(raw_path) > 1 and raw_path.endswith(b"/"):
        return False
    return not any(segment in {b".", b".."} for segment in raw_path.split(b"/"))
