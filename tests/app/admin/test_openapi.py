"""The admin API's part of the document says what the handlers do."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis

from app.admin import openapi
from app.admin.surface import ROOT, admin_service
from app.openapi import document
from tests.support.admin_world import operations


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return document()


def nobody() -> Any:
    raise AssertionError


def test_every_handler_is_described(described: dict[str, Any]) -> None:
    routed = {
        (route.path_format, str(method).lower())
        for route in admin_service(nobody).routes
        if route.path.startswith(ROOT)
        for method in getattr(route, "methods", ())
        if method != "OPTIONS"
    }

    assert {(path, method) for path, method, _ in operations(described)} == routed


def test_every_operation_needs_an_admin_key(described: dict[str, Any]) -> None:
    for _, _, operation in operations(described):
        assert operation["security"] == [{"adminBearer": []}, {"adminApiKey": []}]
        assert operation["tags"][0] in {tag["name"] for tag in openapi.TAGS}


def test_every_refusal_is_problem_details_with_an_example(described: dict[str, Any]) -> None:
    for _, _, operation in operations(described):
        for status, response in operation["responses"].items():
            if status.startswith("2"):
                continue
            name = response["$ref"].rpartition("/")[2]
            content = described["components"]["responses"][name]["content"]["application/problem+json"]
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
            assert str(content["example"]["status"]) == status


def test_bodies_say_that_they_take_no_other_field(described: dict[str, Any]) -> None:
    bodies = [
        operation["requestBody"] for _, _, operation in operations(described) if "requestBody" in operation
    ]

    assert bodies
    for body in bodies:
        content = body["content"]["application/json"]
        schema = described["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
        assert schema["additionalProperties"] is False
        assert set(content["example"]) <= set(schema["properties"])


def test_every_list_has_a_bounded_page(described: dict[str, Any]) -> None:
    lists = [
        operation for _, _, operation in operations(described) if operation["operationId"].startswith("list")
    ]

    assert lists
    for operation in lists:
        parameters = {each["name"]: each["schema"] for each in operation["parameters"]}
        assert (parameters["limit"]["maximum"], parameters["limit"]["default"]) == (200, 50)
        assert "cursor" in parameters


def test_the_document_is_one_of_openapi_3_1(described: dict[str, Any]) -> None:
    schemathesis.openapi.from_dict(described).validate()


def test_operation_ids_are_names_that_an_sdk_can_take(described: dict[str, Any]) -> None:
    names = [each.name for each in operations(described)]

    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r"[a-z]+([A-Z][a-z]+)+", name)] == []


def anonymous(schema: Any, at: str) -> Iterator[str]:
    """Yield the places of objects that have fields but no name: an SDK would have to make one up."""
    if isinstance(schema, dict):
        if "properties" in schema and schema.get("type") == "object":
            yield at
        for name, part in schema.items():
            yield from anonymous(part, f"{at}/{name}")
    elif isinstance(schema, list):
        for place, part in enumerate(schema):
            yield from anonymous(part, f"{at}/{place}")


def test_every_object_has_a_name(described: dict[str, Any]) -> None:
    found = [place for each in operations(described) for place in anonymous(each.described, each.name)]
    for name, schema in openapi.schemas().items():
        found += [
            place
            for part, inner in schema.get("properties", {}).items()
            for place in anonymous(inner, f"{name}/{part}")
        ]

    assert found == []


def test_every_operation_has_an_example_of_what_it_takes_and_says_how_it_ends(
    described: dict[str, Any],
) -> None:
    for each in operations(described):
        for content in each.described.get("requestBody", {}).get("content", {}).values():
            assert content["example"], each.name
        assert {"400", "401", "429", "503"} <= set(each.described["responses"])
