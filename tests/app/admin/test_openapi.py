"""The admin API's part of the document says what the handlers do."""

from typing import Any

import pytest

from app.admin import openapi
from app.admin.surface import admin_service
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
