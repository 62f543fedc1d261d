"""Pages in browsers: which origins may read answers. Off unless the operator names some.

Never with cookies, which the gateway does not know: a page has to have a key of its own. Refusals carry the same
headers as answers, or a browser would hide from the page what went wrong.
"""

from collections.abc import Collection
from typing import Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from app.gateway.access_log import AccessLog, AccessNote
from app.gateway.call import call_of
from app.gateway.downstream import SERVER, Header
from app.metrics import Metrics

PREFLIGHT: Final = "(preflight)"
"""What log and metrics call a browser's question whether a page may ask. It may name any path."""
NO_CONTENT: Final = 204
REMEMBERED_S: Final = 600

_SURFACE: Final = ("/api/", "/v1/", "/k/")
_SURFACE_EXACT: Final = frozenset({"/", "/me"})
_METHODS: Final = b"GET, HEAD, POST"
_STAINLESS: Final = (
    "arch", "async", "helper-method", "lang", "os", "package-version", "poll-helper", "raw-response",
    "retry-count", "runtime", "runtime-version", "stream-helper", "timeout",
)  # fmt: skip
"""What the official clients of OpenAI and Anthropic tell about themselves; a browser asks for each by name."""
_HEADERS: Final = ", ".join(
    (
        "authorization", "x-api-key", "content-type", "content-encoding", "anthropic-version", "anthropic-beta",
        "anthropic-dangerous-direct-browser-access", "openai-organization", "openai-project",
        "x-request-id", "traceparent",
        *(f"x-stainless-{name}" for name in _STAINLESS),
    )
).encode()  # fmt: skip
_EXPOSED: Final = ", ".join(
    (
        "x-request-id", "retry-after", "x-should-retry", "ratelimit", "ratelimit-policy",
        *(
            f"x-ratelimit-{what}-{of}"
            for what in ("limit", "remaining", "reset")
            for of in ("requests", "tokens")
        ),
    )
).encode()  # fmt: skip
_VARY: Final[Header] = (b"vary", b"Origin")
_VARY_PREFLIGHT: Final[Header] = (
    b"vary",
    b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
)


class Cors:
    """Tells browsers about the tenant surface of `inner`; everything else passes untouched.

    Parameters
    ----------
    origins
        Exactly as browsers write them: `https://chat.example.org`.
    """

    def __init__(
        self, inner: ASGIApp, *, origins: Collection[str], metrics: Metrics, access_log: AccessLog
    ) -> None:
        self._inner: Final = inner
        self._origins: Final = frozenset(origin.encode() for origin in origins)
        self._metrics: Final = metrics
        self._access_log: Final = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a browser's question, or have the answer say who may read it."""
        if scope["type"] != ScopeType.HTTP or not _is_tenant_surface(scope["path"]):
            await self._inner(scope, receive, send)
            return
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        allowed = origin if origin in self._origins else None
        if allowed and scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            await self._answer_preflight(scope, send, allowed)
            return
        told: list[Header] = [_VARY]
        if allowed:
            told += [(b"access-control-allow-origin", allowed), (b"access-control-expose-headers", _EXPOSED)]

        async def send_told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *told]
            await send(message)

        await self._inner(scope, receive, send_told)

    async def _answer_preflight(self, scope: HTTPScope, send: Send, origin: bytes) -> None:
        call = call_of(scope)
        self._metrics.add(self._metrics.requests, (PREFLIGHT, str(NO_CONTENT)))
        self._access_log.write(call, route=PREFLIGHT, status=NO_CONTENT, sent_bytes=0, note=AccessNote())
        headers = [
            (b"access-control-allow-origin", origin),
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _HEADERS),
            (b"access-control-max-age", b"%d" % REMEMBERED_S),
            _VARY_PREFLIGHT,
            (b"x-request-id", call.request_id_text),
            SERVER,
        ]
        await send({"type": "http.response.start", "status": NO_CONTENT, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _is_tenant_surface(path: str) -> bool:
    return path.startswith(_SURFACE) or path in _SURFACE_EXACT
