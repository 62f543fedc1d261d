"""A tenant's keys over HTTP: told once, found, revoked for good."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tests.support.admin import Desk, faults, problem

LONG_AGO = "2020-01-01T00:00:00Z"

ACTIONS = "SELECT action FROM audit_events WHERE subject = $1 ORDER BY at, id"


async def test_a_new_key_works_and_its_text_is_told_once(desk: Desk) -> None:
    slug = await desk.tenant()

    made = await desk.post(f"/tenants/{slug}/keys", {"name": "laptop"})
    issued = made.json()
    found = await desk.get(f"/tenants/{slug}/keys/{issued['summary']['prefix']}")
    used = await desk.client.get("/api/version", headers={"Authorization": f"Bearer {issued['key']}"})

    assert (made.status_code, found.status_code, used.status_code) == (201, 200, 200)
    assert made.headers["location"] == f"/admin/v1/tenants/{slug}/keys/{issued['summary']['prefix']}"
    assert found.json() == issued["summary"]
    assert issued["key"].startswith(issued["summary"]["prefix"] + "_")
    assert issued["key"] not in found.text
    assert issued["summary"]["role"] == "inference"


async def test_a_key_has_the_bounds_it_was_made_with(desk: Desk) -> None:
    slug = await desk.tenant()
    until = (datetime.now(UTC) + timedelta(days=1)).isoformat(timespec="seconds").replace("+00:00", "Z")

    issued = await desk.new_key(slug, expiresAt=until, allowedNetworks=["10.0.0.0/8", "2001:db8::/32"])

    assert issued["summary"]["expiresAt"] == until
    assert issued["summary"]["allowedNetworks"] == ["10.0.0.0/8", "2001:db8::/32"]


async def test_a_key_is_named_by_prefix_id_or_whole_text(desk: Desk) -> None:
    slug = await desk.tenant()
    issued = await desk.new_key(slug)

    replies = [
        await desk.get(f"/tenants/{slug}/keys/{name}")
        for name in (issued["summary"]["prefix"], issued["summary"]["id"], issued["key"])
    ]

    assert [reply.json() for reply in replies] == [issued["summary"]] * 3


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"name": ""}, {"#/name"}),
        ({"expiresAt": LONG_AGO}, {"#/expiresAt"}),
        ({"expiresAt": "2099-01-01T00:00:00"}, {"#/expiresAt"}),
        ({"expiresAt": "9999-12-31T23:59:59-12:00"}, {"#/expiresAt"}),
        ({"expiresAt": "0001-01-01T00:00:00+12:00"}, {"#/expiresAt"}),
        ({"expiresAt": "tomorrow"}, {"#/expiresAt"}),
        ({"expiresAt": 4102444800}, {"#/expiresAt"}),
        (
            {"allowedNetworks": ["10.0.0.0/8", "10.0.0.1/8", "x"]},
            {"#/allowedNetworks/1", "#/allowedNetworks/2"},
        ),
        ({"allowedNetworks": [1]}, {"#/allowedNetworks/0"}),
        ({"allowedNetworks": ["10.0.0.0/8"] * 65}, {"#/allowedNetworks"}),
        ({"allowedNetworks": "10.0.0.0/8"}, {"#/allowedNetworks"}),
        ({"role": "admin"}, {"#/role"}),
        ({"tenantId": "x"}, {"#/tenantId"}),
    ],
)
async def test_every_field_at_fault_is_told(desk: Desk, fields: dict[str, Any], at_fault: set[str]) -> None:
    slug = await desk.tenant()

    assert set(faults(await desk.post(f"/tenants/{slug}/keys", {"name": "k"} | fields))) == at_fault


async def test_lists_are_pages_that_leave_no_key_out(desk: Desk) -> None:
    slug = await desk.tenant()
    made = [(await desk.new_key(slug, f"key {number}"))["summary"] for number in range(5)]

    first = (await desk.get(f"/tenants/{slug}/keys", limit=2)).json()
    second = (await desk.get(f"/tenants/{slug}/keys", limit=2, cursor=first["nextCursor"])).json()
    third = (await desk.get(f"/tenants/{slug}/keys", limit=2, cursor=second["nextCursor"])).json()

    assert first["items"] + second["items"] + third["items"] == made
    assert third["nextCursor"] is None


async def test_a_revoked_key_is_refused_by_every_process_that_confirmed(desk: Desk) -> None:
    slug = await desk.tenant()
    issued = await desk.new_key(slug)
    headers = {"Authorization": f"Bearer {issued['key']}"}
    before = await desk.client.get("/api/version", headers=headers)

    revoked = await desk.post(f"/tenants/{slug}/keys/{issued['summary']['prefix']}/revoke", wait="true")
    after = await desk.client.get("/api/version", headers=headers)

    assert (before.status_code, revoked.status_code, after.status_code) == (200, 200, 401)
    told = revoked.json()
    assert (told["changed"], told["key"]["status"]) == (True, "revoked")
    assert (len(told["confirmation"]["confirmed"]), told["confirmation"]["missing"]) == (1, [])


async def test_revoking_again_changes_nothing(desk: Desk, sql: asyncpg.Connection) -> None:
    slug = await desk.tenant()
    key = (await desk.new_key(slug))["summary"]
    path = f"/tenants/{slug}/keys/{key['id']}/revoke"

    first, second = (await desk.post(path)).json(), (await desk.post(path)).json()

    assert (first["changed"], second["changed"], second["confirmation"]) == (True, False, None)
    actions = await sql.fetch(ACTIONS, f"key:{key['id']}")
    assert [event["action"] for event in actions] == ["key.create", "key.revoke"]


@pytest.mark.parametrize("how", ["get", "post"])
async def test_another_tenant_s_key_is_as_unknown_as_none(desk: Desk, how: str) -> None:
    mine, theirs = await desk.tenant(), await desk.tenant()
    key = (await desk.new_key(theirs))["summary"]
    end = "/revoke" if how == "post" else ""

    async def ask(name: str) -> tuple[int, str]:
        reply = await (desk.post if how == "post" else desk.get)(f"/tenants/{mine}/keys/{name}{end}")
        return reply.status_code, problem(reply, 404, "not-found")["detail"].replace(name, "KEY")

    unknown_id = await ask("00000000-0000-7000-8000-000000000000")
    assert await ask(key["id"]) == unknown_id
    assert await ask(key["prefix"]) == await ask("nng_00000000") == unknown_id
    assert (await desk.get(f"/tenants/{theirs}/keys/{key['id']}")).json()["status"] == "active"


@pytest.mark.parametrize("name", ["x", "nng_", "nng_short", "nng_12345678x", "%C3%A9", "-1", "'", "a" * 5000])
async def test_what_is_no_key_s_name_is_not_found(desk: Desk, name: str) -> None:
    slug = await desk.tenant()

    problem(await desk.get(f"/tenants/{slug}/keys/{name}"), 404, "not-found")


async def test_a_damaged_key_in_the_path_is_not_repeated(desk: Desk) -> None:
    slug = await desk.tenant()
    issued = await desk.new_key(slug)

    reply = await desk.get(f"/tenants/{slug}/keys/x{issued['key']}")

    assert issued["key"] not in reply.text
    assert issued["key"] not in desk.gateway.app.log()


async def test_a_change_leaves_alone_what_it_does_not_name(desk: Desk, sql: asyncpg.Connection) -> None:
    slug = await desk.tenant()
    before = (await desk.new_key(slug, allowedNetworks=["10.0.0.0/8"]))["summary"]
    path = f"/tenants/{slug}/keys/{before['prefix']}"

    after = (await desk.patch(path, {"name": "desktop", "expiresAt": "2099-01-01T00:00:00Z"})).json()
    opened = (await desk.patch(path, {"allowedNetworks": [], "expiresAt": None})).json()

    assert after == before | {"name": "desktop", "expiresAt": "2099-01-01T00:00:00Z"}
    assert opened == before | {"name": "desktop", "allowedNetworks": []}
    events = await sql.fetch(ACTIONS, f"key:{before['id']}")
    assert [event["action"] for event in events] == ["key.create", "key.set", "key.set"]


async def test_a_change_is_checked_like_a_creation(desk: Desk) -> None:
    slug = await desk.tenant()
    path = f"/tenants/{slug}/keys/{(await desk.new_key(slug))['summary']['prefix']}"

    assert set(faults(await desk.patch(path, {"name": " ", "role": "admin"}))) == {"#/name", "#/role"}
    assert set(faults(await desk.patch(path, {"expiresAt": LONG_AGO}))) == {"#/expiresAt"}
    assert set(faults(await desk.patch(path, {"allowedNetworks": ["x"]}))) == {"#/allowedNetworks/0"}


async def test_a_change_bound_to_a_state_that_is_over_is_refused(desk: Desk, sql: asyncpg.Connection) -> None:
    slug = await desk.tenant()
    path = f"/tenants/{slug}/keys/{(await desk.new_key(slug))['summary']['prefix']}"
    seen = (await desk.get(path)).headers["etag"]
    await sql.execute("UPDATE api_keys SET last_used_at = now() WHERE prefix = $1", path.rpartition("/")[2])

    first = await desk.patch(path, {"name": "First"}, if_match=seen)
    second = await desk.patch(path, {"name": "Second"}, if_match=seen)

    assert first.status_code == 200, "that a key was used is no change"
    problem(second, 412, "precondition-failed")


async def test_a_revoked_key_stays_as_it_is(desk: Desk) -> None:
    slug = await desk.tenant()
    path = f"/tenants/{slug}/keys/{(await desk.new_key(slug))['summary']['prefix']}"
    await desk.post(f"{path}/revoke")

    problem(await desk.patch(path, {"name": "again"}), 409, "conflict")
    problem(await desk.post(f"{path}/rotate", {}), 409, "conflict")


async def test_a_successor_works_beside_the_key_it_replaces(desk: Desk) -> None:
    slug = await desk.tenant()
    issued = await desk.new_key(slug)
    path = f"/tenants/{slug}/keys/{issued['summary']['prefix']}"

    reply = await desk.post(f"{path}/rotate", {"overlapSeconds": 3600})
    rotated = reply.json()
    used = [
        await desk.client.get("/api/version", headers={"Authorization": f"Bearer {key}"})
        for key in (issued["key"], rotated["key"])
    ]

    assert reply.status_code == 201
    assert reply.headers["location"] == f"/admin/v1/tenants/{slug}/keys/{rotated['summary']['prefix']}"
    assert rotated["summary"]["rotatedFrom"] == rotated["replaced"]["id"] == issued["summary"]["id"]
    assert rotated["replaced"]["expiresAt"] is not None
    assert [each.status_code for each in used] == [200, 200]
    problem(await desk.post(f"{path}/rotate", {}), 409, "conflict")


async def test_without_an_overlap_the_replaced_key_is_revoked(desk: Desk) -> None:
    slug = await desk.tenant()
    path = f"/tenants/{slug}/keys/{(await desk.new_key(slug))['summary']['prefix']}"

    rotated = (await desk.post(f"{path}/rotate", {"overlapSeconds": 0})).json()

    assert (rotated["replaced"]["status"], rotated["summary"]["status"]) == ("revoked", "active")


@pytest.mark.parametrize("overlap", [-1, 366 * 86_400 + 1, 1.5, "1h", None])
async def test_an_overlap_has_bounds(desk: Desk, overlap: object) -> None:
    slug = await desk.tenant()
    path = f"/tenants/{slug}/keys/{(await desk.new_key(slug))['summary']['prefix']}"

    assert set(faults(await desk.post(f"{path}/rotate", {"overlapSeconds": overlap}))) == {"#/overlapSeconds"}
