"""Routes that only read (lists, versions, metadata), and management routes a gateway must never reach."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from app.simulator.decode import decode_body, text_field
from app.simulator.http import Exchange
from app.simulator.jobs import Host, require_model
from app.simulator.loading import Runners
from app.simulator.wire import JSON_BARE, JSON_UTF8, PLAIN_UTF8, go_json

SHOW_FIELDS: Final = frozenset({"model", "name", "system", "template", "verbose", "options"})

MANAGEMENT: Final[dict[str, frozenset[str]]] = {
    "/api/pull": frozenset({"POST"}),
    "/api/push": frozenset({"POST"}),
    "/api/create": frozenset({"POST"}),
    "/api/copy": frozenset({"POST"}),
    "/api/delete": frozenset({"DELETE"}),
    "/api/me": frozenset({"POST"}),
    "/api/signout": frozenset({"POST"}),
    "/api/status": frozenset({"GET"}),
    "/api/experimental/web_search": frozenset({"POST"}),
    "/api/experimental/web_fetch": frozenset({"POST"}),
    "/api/experimental/model-recommendations": frozenset({"GET"}),
}
_MANAGEMENT_PREFIXES: Final = {
    "/api/blobs/": frozenset({"POST", "HEAD"}),
    "/api/user/keys/": frozenset({"DELETE"}),
}
_BLOBS: Final = "/usr/share/ollama/.ollama/models/blobs"
_CENTURY: Final = timedelta(days=36_500)


def management_methods(path: str) -> frozenset[str] | None:
    """Return the methods of a management route, None if the path is none."""
    for prefix, methods in _MANAGEMENT_PREFIXES.items():
        if path.startswith(prefix):
            return methods
    return MANAGEMENT.get(path)


def root(exchange: Exchange, host: Host, runners: Runners) -> None:  # noqa: ARG001
    """Answer the liveness text."""
    exchange.whole(200, PLAIN_UTF8, b"Ollama is running")


def version(exchange: Exchange, host: Host, runners: Runners) -> None:  # noqa: ARG001
    """Answer the version."""
    exchange.whole(200, JSON_UTF8, go_json({"version": host.version}))


def tags(exchange: Exchange, host: Host, runners: Runners) -> None:  # noqa: ARG001
    """Answer the list of hosted models."""
    exchange.whole(200, JSON_UTF8, host.catalogue.tags_body)


def processes(exchange: Exchange, host: Host, runners: Runners) -> None:
    """Answer the list of loaded models, longest to stay first."""
    now = datetime.now(UTC)
    listed = []
    for name, left_ns in runners.loaded():
        model = host.catalogue.find(name)
        if model is None:
            continue
        listed.append(
            {
                "name": model.name,
                "model": model.name,
                "size": model.size,
                "digest": model.digest,
                "details": model.details(),
                "expires_at": (now + min(timedelta(microseconds=left_ns // 1000), _CENTURY)).isoformat(),
                "size_vram": model.size,
                "context_length": model.context_length,
            }
        )
    exchange.whole(200, JSON_UTF8, go_json({"models": listed}))


def show(exchange: Exchange, host: Host, runners: Runners) -> None:  # noqa: ARG001
    """Answer a model's metadata, server path and system prompt included; raises `Refusal`."""
    body = decode_body(exchange.request.body, SHOW_FIELDS)
    model = require_model(host, text_field(body, "model") or text_field(body, "name"))
    family = str(model.details()["family"])
    answer = {
        "license": "Simulated licence",
        "modelfile": f"FROM {_BLOBS}/sha256-{model.digest}\nSYSTEM private prompt\n",
        "parameters": 'stop "<|end|>"',
        "template": "{{ .Prompt }}",
        "system": "private prompt",
        "details": model.details(),
        "model_info": {
            "general.architecture": family,
            f"{family}.context_length": model.context_length,
            f"{family}.embedding_length": model.embedding_length,
        },
        "capabilities": list(model.capabilities),
        "modified_at": model.modified_at,
    }
    exchange.whole(200, JSON_UTF8, go_json(answer))


def v1_models(exchange: Exchange, host: Host, runners: Runners) -> None:  # noqa: ARG001
    """Answer the `/v1` list; Ollama writes null for an empty one."""
    data = [_v1_model(model.name, model.modified_at, model.namespace) for model in host.catalogue]
    exchange.whole(200, JSON_BARE, go_json({"object": "list", "data": data or None}) + b"\n")


ROUTES: Final[dict[str, tuple[frozenset[str], Callable[[Exchange, Host, Runners], None]]]] = {
    "/": (frozenset({"GET", "HEAD"}), root),
    "/api/version": (frozenset({"GET", "HEAD"}), version),
    "/api/tags": (frozenset({"GET", "HEAD"}), tags),
    "/api/ps": (frozenset({"GET"}), processes),
    "/api/show": (frozenset({"POST"}), show),
    "/v1/models": (frozenset({"GET"}), v1_models),
}
"""Path -> methods, and what answers them (called alike; most need no more than the host)."""


def v1_model(exchange: Exchange, host: Host, name: str) -> None:
    """Answer one entry of the `/v1` list, under the name asked for; raises `Refusal`."""
    model = require_model(host, name)
    exchange.whole(200, JSON_BARE, go_json(_v1_model(name, model.modified_at, model.namespace)) + b"\n")


def _v1_model(name: str, modified_at: str, namespace: str) -> dict[str, object]:
    created = int(datetime.fromisoformat(modified_at).timestamp())
    return {"id": name, "object": "model", "created": created, "owned_by": namespace}


def management(exchange: Exchange) -> None:
    """Answer a management route with success, so that a test can tell whether it was reached."""
    exchange.whole(200, JSON_UTF8, b'{"status":"success"}')
