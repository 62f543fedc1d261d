"""The operators' own keys over HTTP, and all keys whoever owns them."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tests.support.admin import Desk, faults, problem
from tests.support.gateway import Gateway

ACTIONS = "SELECT action, actor FROM audit_events WHERE subject = $1 AND action LIKE 'key.%' ORDER BY at, id"
NOBODY_S = "nnga_00000000"


async def made(desk: Desk, name: str = "ops", **fields: Any) -> dict[str, Any]:
    """Create an admin key and return the answer."""
    reply = await desk.post("/admin-keys", {"name": name, **fields})
    assert reply.status_code == 201, reply.text
    return dict(reply.json())


def moment(days: int) -> str:
    """Return a moment so many days from now as the API writes it."""
    return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


async def test_an_admin_key_opens_the_admin_api_until_it_is_revoked(
    desk: Desk, sql: asyncpg.Connection
) -> None:
    reply = await desk.post("/admin-keys", {"name": "ops"})
    issued = reply.json()
    path = f"/admin-keys/{issued['summary']['prefix']}"

    before = await desk.with_key(issued["key"])
    found = await desk.get(path)
    revoked = await desk.post(f"{path}/revoke", wait="true")
    after = await desk.with_key(issued["key"])

    assert reply.headers["location"] == f"/admin/v1{path}"
    assert (issued["summary"]["role"], before.json()["key"]["id"]) == ("admin", issued["summary"]["id"])
    assert found.json() == issued["summary"]
    assert (revoked.json()["changed"], after.status_code) == (True, 401)
    events = await sql.fetch(ACTIONS, f"key:{issued['summary']['id']}")
    assert [tuple(event) for event in events] == [("key.create", desk.prefix), ("key.revoke", desk.prefix)]


async def test_a_creation_that_is_sent_again_happens_once(desk: Desk) -> None:
    first = await desk.post("/admin-keys", {"name": "ops"}, once=desk.address)
    again = await desk.post("/admin-keys", {"name": "ops"}, once=desk.address)

    problem(again, 409, "already-created")
    assert again.headers["location"] == first.headers["location"]


async def test_it_is_changed_and_replaced_like_any_key(desk: Desk) -> None:
    path = f"/admin-keys/{(await made(desk))['summary']['prefix']}"

    changed = (await desk.patch(path, {"name": "night shift", "expiresAt": moment(1)})).json()
    rotated = (await desk.post(f"{path}/rotate", {"overlapSeconds": 0})).json()

    assert changed["name"] == rotated["summary"]["name"] == "night shift"
    assert rotated["replaced"]["status"] == "revoked"
    assert (await desk.with_key(rotated["key"])).status_code == 200


@pytest.mark.parametrize("field", ["pathAllowed", "allowAllModels"])
async def test_it_cannot_have_what_only_tenants_keys_have(desk: Desk, field: str) -> None:
    path = f"/admin-keys/{(await made(desk))['summary']['prefix']}"

    assert set(faults(await desk.post("/admin-keys", {"name": "ops", field: True}))) == {f"#/{field}"}
    assert set(faults(await desk.patch(path, {field: True}))) == {f"#/{field}"}


async def test_keys_of_tenants_and_of_operators_do_not_answer_to_each_other_s_paths(desk: Desk) -> None:
    slug = await desk.tenant()
    key, admin = (await desk.new_key(slug))["summary"], (await made(desk))["summary"]

    for name in ("prefix", "id"):
        for path in (f"/admin-keys/{key[name]}", f"/tenants/{slug}/keys/{admin[name]}"):
            problem(await desk.get(path), 404, "not-found")
            problem(await desk.patch(path, {"name": "mine"}), 404, "not-found")
            problem(await desk.post(f"{path}/rotate", {}), 404, "not-found")
            problem(await desk.post(f"{path}/revoke"), 404, "not-found")
    listed = (await desk.get("/admin-keys", limit=200)).json()["items"]
    assert {each["role"] for each in listed} == {"admin"}


@pytest.fixture
async def bounded(desk: Desk, gateway: Gateway) -> AsyncIterator[Desk]:
    """Give the desk of a key that ends in two days and works from 198.18.0.0/15 alone."""
    reply = await desk.post(
        "/admin-keys", {"name": "bounded", "expiresAt": moment(2), "allowedNetworks": ["198.18.0.0/15"]}
    )
    async with Desk(gateway, reply.json()["key"], desk.address) as bounded:
        yield bounded


BOUNDS = [
    ({"expiresAt": moment(1), "allowedNetworks": ["198.18.0.0/16"]}, set()),
    ({"expiresAt": None, "allowedNetworks": ["198.18.0.0/16"]}, {"#/expiresAt"}),
    ({"expiresAt": moment(3), "allowedNetworks": ["198.18.0.0/16"]}, {"#/expiresAt"}),
    ({"expiresAt": moment(1), "allowedNetworks": []}, {"#/allowedNetworks"}),
    ({"expiresAt": moment(1), "allowedNetworks": ["198.18.0.0/16", "10.0.0.0/8"]}, {"#/allowedNetworks"}),
    ({"expiresAt": moment(1), "allowedNetworks": ["198.0.0.0/8"]}, {"#/allowedNetworks"}),
    ({"expiresAt": moment(3), "allowedNetworks": ["2001:db8::/32"]}, {"#/expiresAt", "#/allowedNetworks"}),
]


@pytest.mark.parametrize(("asked", "beyond"), BOUNDS)
async def test_a_bounded_key_gives_no_admin_key_more_than_it_has(
    desk: Desk, bounded: Desk, asked: dict[str, Any], beyond: set[str]
) -> None:
    path = f"/admin-keys/{(await made(desk, **asked))['summary']['prefix']}"
    other = f"/admin-keys/{(await made(desk))['summary']['prefix']}"

    replies = [
        await bounded.post("/admin-keys", {"name": "ops", **asked}),
        await bounded.patch(other, asked),
        await bounded.post(f"{path}/rotate", {}),
    ]

    assert [reply.is_success for reply in replies] == [not beyond] * 3
    if beyond:
        assert [set(faults(reply)) for reply in replies] == [beyond] * 3
        assert (await desk.get(path)).json()["status"] == "active", "nothing is left of a rotation"


async def test_a_bounded_key_looks_after_tenants_keys_like_any(bounded: Desk) -> None:
    slug = await bounded.tenant()

    assert (await bounded.new_key(slug))["summary"]["expiresAt"] is None


async def test_every_key_is_found_by_its_name_alone_with_its_owner(desk: Desk) -> None:
    slug = await desk.tenant()
    key, admin = (await desk.new_key(slug))["summary"], (await made(desk))["summary"]

    async def found(name: str) -> list[dict[str, Any]]:
        return list((await desk.get("/keys", key=name)).json()["items"])

    tenant_id = (await desk.get(f"/tenants/{slug}")).json()["id"]
    for name in ("prefix", "id"):
        assert await found(key[name]) == [key | {"tenant": slug, "tenantId": tenant_id}]
        assert await found(admin[name]) == [admin | {"tenant": None, "tenantId": None}]
    assert await found(NOBODY_S) == await found("what is no name") == []


async def test_the_list_of_all_keys_leaves_none_out(desk: Desk) -> None:
    slug = await desk.tenant()
    wanted = {(await desk.new_key(slug))["summary"]["id"], (await made(desk))["summary"]["id"]}
    seen: list[str] = []
    cursor: str | None = None
    while cursor is not None or not seen:
        page = (await desk.get("/keys", limit=7, **({} if cursor is None else {"cursor": cursor}))).json()
        seen += [each["id"] for each in page["items"]]
        cursor = page["nextCursor"]

    assert wanted <= set(seen)
    assert len(seen) == len(set(seen))
