"""The tenant surface: which paths exist, what answers them, and which of Ollama's are never reachable."""

from typing import Final
from urllib.parse import unquote

import msgspec

from app.gateway import token_count
from app.gateway.downstream import JSON, TEXT
from app.gateway.endpoint import Handler, PublicRoute, Visit
from app.gateway.reads import GatewayOf, read_routes
from app.gateway.serve import serve
from domain.errors import ModelForbidden, RouteForbidden, UnknownPath
from domain.model_names import canonical
from domain.routes import MESSAGES_PATH, RouteSpec, inference_routes
from domain.values import ApiFamily

NATIVE: Final = ApiFamily.NATIVE
OPENAI: Final = ApiFamily.OPENAI

MANAGEMENT_PATHS: Final = (
    "/api/blobs",
    "/api/copy",
    "/api/create",
    "/api/delete",
    "/api/experimental/web_fetch",
    "/api/experimental/web_search",
    "/api/me",
    "/api/pull",
    "/api/push",
    "/api/signout",
    "/api/user/keys",
)
MANAGEMENT_PREFIXES: Final = ("/api/blobs/", "/api/user/keys/")
OPENAI_MANAGEMENT_PATHS: Final = (
    "/v1/audio/transcriptions",
    "/v1/images/edits",
    "/v1/images/generations",
)
ALL_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")

_MODEL_ID_PREFIX: Final = b"/v1/models/"
_MODEL_ID_BYTES: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/-")


def public_routes(gateway: GatewayOf, extra_fields: frozenset[str]) -> list[PublicRoute]:
    """Return the tenant surface. `gateway` gives the running gateway; it exists once the process has started."""
    inference = inference_routes(extra_fields)
    counted = inference[MESSAGES_PATH]
    return [
        PublicRoute("/", NATIVE, _read(_alive)),
        PublicRoute("/api/version", NATIVE, _read(_version(gateway))),
        PublicRoute("/api/tags", NATIVE, _read(_tags(gateway))),
        *read_routes(gateway),
        PublicRoute("/v1/models", OPENAI, {"GET": _models(gateway)}),
        PublicRoute("/v1/models/{model_id:path}", OPENAI, {"GET": _model(gateway)}, prefix=_MODEL_ID_PREFIX),
        *(
            PublicRoute(path, spec.family, {"POST": _inference(spec, gateway)})
            for path, spec in inference.items()
        ),
        PublicRoute(token_count.PATH, counted.family, {"POST": _token_count(counted, gateway)}),
        *(_management(path, NATIVE, gateway) for path in MANAGEMENT_PATHS),
        *(_management(path, OPENAI, gateway) for path in OPENAI_MANAGEMENT_PATHS),
        *(
            msgspec.structs.replace(
                _management(f"{prefix}{{rest:path}}", NATIVE, gateway), prefix=prefix.encode()
            )
            for prefix in MANAGEMENT_PREFIXES
        ),
    ]


def _read(handler: Handler) -> dict[str, Handler]:
    return {"GET": handler, "HEAD": handler}


async def _alive(visit: Visit) -> None:
    """Ollama's own words, keyless: clients take them as the sign of life."""
    await visit.downstream.answer(200, TEXT, b"Ollama is running")


def _version(gateway: GatewayOf) -> Handler:
    async def version(visit: Visit) -> None:
        await gateway().principal(visit.call)
        body = msgspec.json.encode({"version": gateway().listing().version})
        await visit.downstream.answer(200, JSON, body)

    return version


def _tags(gateway: GatewayOf) -> Handler:
    async def tags(visit: Visit) -> None:
        gw = gateway()
        rights = gw.rights(await gw.principal(visit.call))
        await visit.downstream.answer(200, JSON, gw.listing().native(rights.permit))

    return tags


def _models(gateway: GatewayOf) -> Handler:
    async def models(visit: Visit) -> None:
        gw = gateway()
        rights = gw.rights(await gw.principal(visit.call))
        await visit.downstream.answer(200, JSON, gw.listing().openai(rights.permit))

    return models


def _model(gateway: GatewayOf) -> Handler:
    async def model(visit: Visit) -> None:
        text = model_id(visit.call.raw_path)
        gw = gateway()
        rights = gw.rights(await gw.principal(visit.call))
        name = canonical(text)
        if name is None:
            raise ModelForbidden
        permitted = rights.permit(name)
        listed = gw.listing().by_name.get(name.display)
        if listed is None or not permitted:
            raise ModelForbidden
        await visit.downstream.answer(200, JSON, listed.openai_as(text))

    return model


def model_id(raw_path: bytes) -> str:
    """Return the model name in a `/v1/models/...` path; `%2F` and `%3A` are the only escapes.

    Raises
    ------
    UnknownPath
        Anything else is escaped, or a byte occurs that no model name holds.
    """
    text = raw_path.removeprefix(_MODEL_ID_PREFIX)
    plain = text.replace(b"%2F", b"/").replace(b"%2f", b"/").replace(b"%3A", b":").replace(b"%3a", b":")
    if not plain or not _MODEL_ID_BYTES.issuperset(plain):
        raise UnknownPath
    return unquote(text.decode("ascii"))


def _inference(spec: RouteSpec, gateway: GatewayOf) -> Handler:
    async def inference(visit: Visit) -> None:
        await serve(visit, spec, gateway())

    return inference


def _token_count(spec: RouteSpec, gateway: GatewayOf) -> Handler:
    async def count(visit: Visit) -> None:
        await token_count.count_tokens(visit, spec, gateway())

    return count


def _management(path: str, family: ApiFamily, gateway: GatewayOf) -> PublicRoute:
    async def refuse(visit: Visit) -> None:
        principal = await gateway().principal(visit.call)
        visit.note.tenant = principal.tenant_slug
        raise RouteForbidden

    return PublicRoute(path, family, dict.fromkeys(ALL_METHODS, refuse))
