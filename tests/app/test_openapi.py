"""The OpenAPI document says what the routes do: paths, fields, refusals, and no drift from the snapshot."""

import asyncio
from typing import Any, NoReturn

import msgspec
import pytest

from app.gateway.body import Bodies
from app.gateway.call import Call
from app.gateway.reads import requested_model
from app.gateway.routes import (
    MANAGEMENT_PATHS,
    MANAGEMENT_PREFIXES,
    OPENAI_MANAGEMENT_PATHS,
    public_routes,
)
from app.openapi import document, render_document
from app.openapi_families import PREFIXES
from app.problems import problem_of
from domain.errors import (
    BadRequest,
    BodyTooSlow,
    GatewayError,
    LimitExceeded,
    ModelForbidden,
    NoCandidate,
    Unauthenticated,
    UnknownPath,
    UpstreamExhausted,
)
from domain.limits import LimitKind, LimitState, Refused
from domain.routes import OPTION_ACTIONS, inference_routes
from domain.values import ApiFamily
from tests.support.asgi import Inbox
from tests.support.clock import Clock
from tests.support.repository import text_of

MIB = 1024 * 1024
NEVER_HONOURED = {"_debug_render_only"}
"""What the gateway knows only to drop it: it would show what the operator configured."""


def no_gateway() -> NoReturn:
    raise AssertionError


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return document()


@pytest.fixture(scope="module")
def described(whole: dict[str, Any]) -> dict[str, Any]:
    """Give the document without the operations of the admin API, which describes itself."""
    tenant = {
        path: operations for path, operations in whole["paths"].items() if not path.startswith("/admin/")
    }
    return whole | {"paths": tenant}


def resolved(described: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference, if it is one."""
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = described["components"]["schemas"][name] if name else schema
    return found


def test_the_snapshot_is_what_this_release_says() -> None:
    assert render_document() == text_of("docs/openapi.json"), (
        "run `uv run neuronetz-gateway openapi --output docs/openapi.json`"
    )


def test_paths_and_methods_are_those_of_the_route_table(described: dict[str, Any]) -> None:
    management = {
        *MANAGEMENT_PATHS,
        *OPENAI_MANAGEMENT_PATHS,
        *(f"{p}{{rest:path}}" for p in MANAGEMENT_PREFIXES),
    }
    routed = {
        route.template.replace(":path}", "}"): {method.lower() for method in route.handlers}
        for route in public_routes(no_gateway, frozenset())
        if route.template not in management
    }

    assert {path: set(operations) for path, operations in described["paths"].items()} == routed


def test_each_operation_belongs_to_its_family(described: dict[str, Any]) -> None:
    for route in public_routes(no_gateway, frozenset()):
        for operation in described["paths"].get(route.template.replace(":path}", "}"), {}).values():
            assert operation["tags"] == [route.family.value]


def test_operation_ids_are_unique(whole: dict[str, Any]) -> None:
    ids = [operation["operationId"] for path in whole["paths"].values() for operation in path.values()]

    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("path", list(inference_routes()))
def test_request_fields_are_those_that_can_have_an_effect(described: dict[str, Any], path: str) -> None:
    spec = inference_routes()[path]
    body = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    fields = set(resolved(described, body["schema"])["properties"])

    assert fields == spec.known.names - NEVER_HONOURED
    assert set(body["example"]) <= fields


def test_options_are_those_that_can_have_an_effect(described: dict[str, Any]) -> None:
    assert set(described["components"]["schemas"]["Options"]["properties"]) == set(OPTION_ACTIONS)


@pytest.mark.parametrize("path", list(inference_routes()))
def test_streams_are_described_where_there_are_any(described: dict[str, Any], path: str) -> None:
    spec = inference_routes()[path]
    types = set(described["paths"][path]["post"]["responses"]["200"]["content"])

    stream = "application/x-ndjson" if spec.family is ApiFamily.NATIVE else "text/event-stream"
    assert types == {"application/json", *({stream} if spec.can_stream else ())}


def test_every_refusal_has_the_shape_of_its_family(described: dict[str, Any]) -> None:
    for operations in described["paths"].values():
        for operation in operations.values():
            prefix = PREFIXES[ApiFamily(*operation["tags"])]
            for status, response in operation["responses"].items():
                if status == "200":
                    continue
                name = response["$ref"].rpartition("/")[2]
                content = described["components"]["responses"][name]["content"]["application/json"]
                assert name.startswith(prefix)
                assert content["schema"]["$ref"].endswith(f"/{prefix}Error")


def test_only_the_sign_of_life_needs_no_key(described: dict[str, Any]) -> None:
    keyless = {
        path
        for path, operations in described["paths"].items()
        for operation in operations.values()
        if operation.get("security") == []
    }

    assert keyless == {"/"}
    assert described["security"] == [{"bearer": []}, {"apiKey": []}, {"basic": []}]


def test_every_reference_leads_somewhere_and_every_component_is_used(whole: dict[str, Any]) -> None:
    referred = set(_references(whole))

    components = {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "responses", "headers")
        for name in whole["components"][kind]
    }
    assert referred == components


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [found for value in node.values() for found in _references(value)]
    return [found for value in node for found in _references(value)] if isinstance(node, list) else []


async def test_examples_of_refusals_are_the_gateway_s_own_words(whole: dict[str, Any]) -> None:
    said = {
        name: msgspec.json.encode(answer["content"]["application/json"]["example"]).decode()
        for name, answer in whole["components"]["responses"].items()
        if name.startswith(tuple(PREFIXES.values())) and not name.startswith("Admin")
    }
    own = await _own_words()

    assert {name.removeprefix(_family_of(name)) for name in said} == own.keys()
    for name, example in said.items():
        assert own[name.removeprefix(_family_of(name))] in example, name


def _family_of(name: str) -> str:
    return next(prefix for prefix in PREFIXES.values() if name.startswith(prefix))


async def _own_words() -> dict[str, str]:
    """Return what refusals say where they are raised; those without a text of their own have it from one table."""
    clock = Clock()
    bodies = Bodies(max_bytes=32 * MIB, base_timeout_s=0, max_buffered_bytes=64 * MIB, now=clock)

    async def refused(*headers: tuple[bytes, bytes]) -> str:
        call = Call(method="POST", raw_path=b"/api/chat", headers=headers, peer=None, started=0.0)
        with pytest.raises(BadRequest) as refusal:
            await bodies.read(call, Inbox([b"x"]))
        return refusal.value.message

    async def slow() -> str:
        stuck = asyncio.Event()

        async def receive() -> NoReturn:
            stuck.set()
            await asyncio.Event().wait()
            raise AssertionError

        call = Call(method="POST", raw_path=b"/api/chat", headers=(), peer=None, started=0.0)
        reading = asyncio.create_task(bodies.read(call, receive))
        await stuck.wait()
        clock.at += 60
        bodies.give_up_late()
        with pytest.raises(BodyTooSlow) as refusal:
            await reading
        return refusal.value.message

    with pytest.raises(BadRequest) as nameless:
        requested_model(b"{}")
    spent = LimitState(LimitKind.REQUESTS_PER_MINUTE, "key", limit=60, remaining=0, reset_s=60.0)
    raised: dict[str, GatewayError] = {
        "Unauthenticated": Unauthenticated(),
        "Forbidden": ModelForbidden(),
        "UnknownPath": UnknownPath(),
        "LimitExceeded": LimitExceeded(Refused(spent, 12.0, (spent,))),
        "AllFailed": UpstreamExhausted(),
        "Busy": NoCandidate(retry_after_s=5),
    }
    return {name: problem_of(error).message for name, error in raised.items()} | {
        "BadRequest": nameless.value.message,
        "BodyTooSlow": await slow(),
        "BodyTooLarge": await refused((b"content-length", b"%d" % (33 * MIB))),
        "UnsupportedEncoding": await refused((b"content-encoding", b"br")),
    }
