"""The admin API's part of the document says what the handlers do."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from app.admin import openapi
from app.admin.surface import admin_service
from app.openapi import document
from tests.support.admin import API, Desk, new_slug, problem
from tests.support.gateway import Gateway

Operation = tuple[str, str, dict[str, Any]]


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return document()


def operations(described: dict[str, Any]) -> Iterator[Operation]:
    for path, methods in described["paths"].items():
        if path.startswith(API):
            for method, operation in methods.items():
                yield path, method, operation


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


async def test_t06_a_tenant_s_key_opens_nothing_here(gateway: Gateway, described: dict[str, Any]) -> None:
    key = await gateway.tenant()
    for number, (path, method, _) in enumerate(operations(described)):
        from_ = {"X-Forwarded-For": f"192.0.2.{number + 1}"}
        async with gateway.client(key) as client:
            reply = await client.request(
                method, path.format(slug=key.tenant, key=key.key_id, name="a"), headers=from_
            )

        problem(reply, 401, "unauthenticated")


async def test_answers_are_what_the_document_says(desk: Desk, described: dict[str, Any]) -> None:
    slug = await desk.tenant()
    for path, method, operation in operations(described):
        key = (await desk.new_key(slug))["summary"]["prefix"]
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        body = content.get("example")
        if operation["operationId"] == "createTenant":
            body = body | {"slug": new_slug()}

        reply = await desk.client.request(method, path.format(slug=slug, key=key, name="a"), json=body)

        said = operation["responses"].get(str(reply.status_code), {})
        assert "content" in said, reply.text
        media_type = reply.headers["content-type"].partition(";")[0]
        assert media_type in said["content"]
        if media_type != "application/json":
            continue
        schema = said["content"]["application/json"]["schema"]
        assert disagreements(described, schema, msgspec.json.decode(reply.content)) == []
        assert {name.lower() for name in said["headers"]} <= set(reply.headers)


def disagreements(described: dict[str, Any], schema: dict[str, Any], value: Any, at: str = "$") -> list[str]:
    """Return where a value has fields that its schema does not name, or lacks some that it does."""
    if "$ref" in schema:
        schema = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        kinds = [each for each in schema["anyOf"] if each != {"type": "null"}]
        return [] if value is None else disagreements(described, kinds[0], value, at)
    if isinstance(value, list):
        return [
            found for each in value for found in disagreements(described, schema["items"], each, f"{at}[]")
        ]
    if not isinstance(value, dict) or "properties" not in schema:
        return []
    wrong = [f"{at}.{name}" for name in value.keys() ^ schema["properties"].keys()]
    for name in value.keys() & schema["properties"].keys():
        wrong += disagreements(described, schema["properties"][name], value[name], f"{at}.{name}")
    return wrong
