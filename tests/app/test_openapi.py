"""The OpenAPI document says what the routes do: paths, fields, refusals, and no drift from the snapshot."""

from typing import Any, NoReturn

import msgspec
import pytest

from app.gateway.routes import (
    MANAGEMENT_PATHS,
    MANAGEMENT_PREFIXES,
    OPENAI_MANAGEMENT_PATHS,
    public_routes,
)
from app.openapi import document, render_document
from app.openapi_families import PREFIXES
from domain.routes import OPTION_ACTIONS, inference_routes
from domain.values import ApiFamily
from tests.support.repository import text_of

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


def test_examples_of_refusals_are_the_gateway_s_own_words(described: dict[str, Any]) -> None:
    example = described["components"]["responses"]["NativeUnauthenticated"]["content"]["application/json"]

    assert msgspec.json.encode(example["example"]).startswith(b'{"error":"A valid API key')
