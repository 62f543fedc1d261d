"""Keys in paths: `/k/<key>/api/chat` means `/api/chat` with that key, for clients that cannot send a header.

Only there where the operator turned it on, and only for keys that may be used so. Nothing behind this layer sees
the key's part of the path: log, metrics and errors know the rest.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from app.gateway.endpoint import Endpoint
from app.gateway.gate import is_canonical
from app.refusals import Refusals

PREFIX: Final = "/k/"
_PREFIX: Final = PREFIX.encode()


class PathKeys:
    """Answers what stands below `/k/<key>`: the tenant surface and nothing else; the rest goes to `inner`.

    `endpoints` and `below` are those of `app.gateway.gate.Gate`, by exact path and by prefix.
    """

    def __init__(
        self,
        inner: ASGIApp,
        *,
        endpoints: Mapping[str, Endpoint],
        below: Mapping[str, Endpoint],
        refusals: Refusals,
    ) -> None:
        self._inner: Final = inner
        self._endpoints: Final = dict(endpoints)
        self._below: Final = dict(below)
        self._refusals: Final = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the connection, or pass it on."""
        if scope["type"] != ScopeType.HTTP or not scope["path"].startswith(PREFIX):
            await self._inner(scope, receive, send)
            return
        # Cut out of the raw bytes: an escape in the key makes it no key, an escaped slash no boundary.
        key, slash, rest = scope["raw_path"].removeprefix(_PREFIX).partition(b"/")
        path = "/" + rest.decode("latin-1")
        keyless = cast("HTTPScope", {**cast("dict[str, Any]", scope), "path": path, "raw_path": b"/" + rest})
        endpoint = self._endpoint(path) if key and slash else None
        if endpoint is None:
            await self._refusals.unknown_path(keyless, send)
        else:
            await endpoint.answer(keyless, receive, send, path_key=key)

    def _endpoint(self, path: str) -> Endpoint | None:
        endpoint = self._endpoints.get(path)
        if endpoint is not None:
            return endpoint
        # Escapes are no question here: no exact path holds one, and the endpoints of prefixes look at theirs.
        if not is_canonical(path.encode("latin-1"), path):
            return None
        return next((found for prefix, found in self._below.items() if path.startswith(prefix)), None)
