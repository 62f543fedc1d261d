"""What holds for every operation in the document: new ones are tested here without anybody's doing."""

from typing import Any

import httpx
import msgspec
import pytest

from app.openapi import document
from tests.support.admin import Desk, faults, problem
from tests.support.admin_world import UNKNOWN_ID, Operation, World, operations
from tests.support.gateway import Gateway


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return document()


def anonymous(reply: httpx.Response) -> bytes:
    """Return the bytes of a refusal without its request's id."""
    return reply.content.replace(reply.headers["x-request-id"].encode(), b"")


async def test_t06_a_tenant_s_key_opens_nothing_here(gateway: Gateway, described: dict[str, Any]) -> None:
    key = await gateway.tenant()
    own = {"slug": key.tenant, "key": str(key.key_id)}
    refusals = set()
    async with gateway.client(key) as tenant, gateway.client() as nobody:
        for number, each in enumerate(operations(described)):
            path = each.path.format_map(Own(own))
            from_ = {"X-Forwarded-For": f"192.0.2.{number + 1}"}
            for client in (tenant, nobody):
                reply = await client.request(each.method, path, headers=from_, json=each.body)
                problem(reply, 401, "unauthenticated")
                refusals.add(anonymous(reply))

    assert len(refusals) == 1


class Own(dict[str, str]):
    """What a tenant knows of itself; everything else is called x."""

    def __missing__(self, name: str) -> str:
        return "x"


def strangers(
    operation: Operation, mine: World, theirs: World
) -> list[tuple[dict[str, str], dict[str, str]]]:
    """Return what belongs to another tenant in a path of mine, each beside what nobody has."""
    parts = [
        name
        for name in mine.parameters(operation.path)
        if f"{{{name}}}" in operation.path and name != "field"
    ]
    if "slug" not in parts:
        return []
    others = theirs.parameters(operation.path)
    return [
        ({name: others[name] for name in parts[place:]}, dict.fromkeys(parts[place:], UNKNOWN_ID))
        for place in range(1, len(parts))
    ]


async def test_t06_what_is_another_tenant_s_is_as_unknown_as_what_nobody_has(
    desk: Desk, described: dict[str, Any]
) -> None:
    mine, theirs = await World.made_by(desk), await World.made_by(desk)
    before = await theirs.state(desk, described)
    asked = 0
    for each in operations(described):
        for foreign, unknown in strangers(each, mine, theirs):
            replies = [
                await desk.client.request(each.method, mine.path_of(each, **names), json=each.body)
                for names in (foreign, unknown)
            ]
            problem(replies[0], 404, "not-found")
            assert anonymous(replies[0]) == anonymous(replies[1]), each.name
            asked += 1

    assert asked > 20
    assert await theirs.state(desk, described) == before


async def test_a_nul_is_nobody_s_fault_but_the_caller_s(desk: Desk, described: dict[str, Any]) -> None:
    world = await World.made_by(desk)
    asked = 0
    for each in operations(described):
        for name in world.parameters(each.path):
            if f"{{{name}}}" in each.path:
                path = world.path_of(each, **{name: "a%00"})
                reply = await desk.client.request(each.method, path, json=each.body)
                assert reply.status_code in {400, 404}, (each.name, path, reply.text)
        for field, value in (each.body or {}).items():
            body = (each.body or {}) | {field: f"{value}\0"}
            reply = await desk.client.request(each.method, world.path_of(each), json=body)
            assert reply.is_client_error, (each.name, field, reply.text)
        for parameter in each.described.get("parameters", ()):
            if parameter["in"] == "query":
                path = f"{world.path_of(each)}?{parameter['name']}=a%00"
                assert faults(await desk.client.request(each.method, path, json=each.body)).keys() == {
                    parameter["name"]
                }
                asked += 1

    assert asked > 50


async def test_answers_are_what_the_document_says(desk: Desk, described: dict[str, Any]) -> None:
    world = await World.made_by(desk)
    touched = False
    for each in operations(described):
        if touched:
            world = await World.made_by(desk)
        touched = each.method != "get"

        reply = await desk.client.request(each.method, world.path_of(each), json=each.body)

        said = each.described["responses"].get(str(reply.status_code), {})
        assert reply.is_success, (each.name, reply.text)
        assert {name.lower() for name in said["headers"]} <= set(reply.headers)
        if reply.status_code == httpx.codes.NO_CONTENT:
            assert (reply.content, "content" in said) == (b"", False)
            continue
        media_type = reply.headers["content-type"].partition(";")[0]
        assert media_type in said["content"], each.name
        if media_type != "application/json":
            continue
        schema = said["content"][media_type]["schema"]
        assert disagreements(described, schema, msgspec.json.decode(reply.content)) == []


def disagreements(described: dict[str, Any], schema: dict[str, Any], value: Any, at: str = "$") -> list[str]:
    """Return where a value has fields that its schema does not name, or lacks some that it does."""
    if "$ref" in schema:
        schema = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        kinds = [each for each in schema["anyOf"] if each != {"type": "null"}]
        return [] if value is None else disagreements(described, kinds[0], value, at)
    if isinstance(value, list):
        inner = schema.get("items", {})
        return [found for each in value for found in disagreements(described, inner, each, f"{at}[]")]
    if not isinstance(value, dict) or "properties" not in schema:
        return []
    wrong = [f"{at}.{name}" for name in value.keys() ^ schema["properties"].keys()]
    for name in value.keys() & schema["properties"].keys():
        wrong += disagreements(described, schema["properties"][name], value[name], f"{at}.{name}")
    return wrong
