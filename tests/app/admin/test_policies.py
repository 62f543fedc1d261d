"""Option policies over HTTP: one rule per field at each of four levels."""

from typing import Any

import asyncpg
import pytest

from tests.support.admin import Desk, faults, problem
from tests.support.admin_world import FIELD, World

CLAMP = {"action": "clamp", "max": 2048, "value": 512}
NOWHERE = {"keyId": None, "grantId": None, "pattern": None}


async def test_a_rule_is_set_and_found_again(desk: Desk) -> None:
    path = f"/tenants/{await desk.tenant()}/policies/num_predict"

    made = await desk.put(path, CLAMP)
    found = await desk.get(path)

    assert made.json() == CLAMP | {"field": "num_predict", "min": None} | NOWHERE
    assert (found.json(), found.headers["etag"]) == (made.json(), made.headers["etag"])


async def test_what_was_answered_can_be_set_again(desk: Desk, sql: asyncpg.Connection) -> None:
    slug = await desk.tenant()
    path = f"/tenants/{slug}/policies/keep_alive"
    made = (await desk.put(path, {"action": "clamp", "min": 60, "max": "1h"})).json()

    again = await desk.put(path, {name: made[name] for name in ("action", "min", "max", "value")})

    assert again.json() == made
    tenant = (await desk.get(f"/tenants/{slug}")).json()["id"]
    actions = await sql.fetch(
        "SELECT action FROM audit_events WHERE subject = $1 ORDER BY at, id", f"tenant:{tenant}"
    )
    assert [event["action"] for event in actions] == ["tenant.create", "policy.set"]


async def test_a_tenant_s_output_cap_binds_its_requests(desk: Desk) -> None:
    slug = await desk.tenant()
    await desk.patch(f"/tenants/{slug}", {"allowAllModels": True})
    key = (await desk.new_key(slug))["key"]
    await desk.put(f"/tenants/{slug}/policies/num_predict", {"action": "clamp", "max": 7, "value": 5})
    await desk.all_acted()
    backend = desk.gateway.backends["a"]
    number = len(await backend.requests())

    for options in ({}, {"num_predict": 100}):
        body = {"model": "llama3.2", "prompt": "x", "stream": False, "options": options}
        reply = await desk.client.post("/api/generate", json=body, headers={"Authorization": f"Bearer {key}"})
        assert reply.status_code == 200, reply.text

    sent = [(each.body or {})["options"] for each in (await backend.requests())[number:]]
    assert [options["num_predict"] for options in sent] == [5, 7]


@pytest.mark.parametrize(
    ("field", "rule", "at_fault"),
    [
        ("nothing", CLAMP, {"field"}),
        ("raw", CLAMP, {"#/action"}),
        ("raw", {"action": "clasp"}, {"#/action"}),
        ("raw", {}, {"#/action"}),
        ("raw", {"action": "set"}, {"#/value"}),
        ("raw", {"action": "set", "value": "yes"}, {"#/value"}),
        ("raw", {"action": "strip", "value": True}, {"#/value"}),
        ("raw", {"action": "strip", "minimum": 1}, {"#/minimum"}),
        ("num_ctx", {"action": "clamp"}, {"#"}),
        ("num_ctx", {"action": "clamp", "min": 10, "max": 5}, {"#"}),
        ("num_ctx", {"action": "clamp", "min": 0}, {"#/min"}),
        ("num_ctx", {"action": "clamp", "max": 2**31}, {"#/max"}),
        ("num_ctx", {"action": "clamp", "max": 10**18}, {"#/max"}),
        ("num_predict", {"action": "clamp", "min": 1}, {"#/min"}),
        ("keep_alive", {"action": "clamp", "min": 1}, {"#"}),
        ("keep_alive", {"action": "clamp", "min": 1, "max": "long"}, {"#/max"}),
        ("template", {"action": "set", "value": ""}, {"#/value"}),
        ("template", {"action": "set", "value": "a\u0000"}, {"#/value"}),
        ("template", {"action": "set", "value": "x" * 100_001}, {"#/value"}),
    ],
)
async def test_what_makes_no_sense_is_told_where(
    desk: Desk, field: str, rule: dict[str, Any], at_fault: set[str]
) -> None:
    slug = await desk.tenant()

    assert set(faults(await desk.put(f"/tenants/{slug}/policies/{field}", rule))) == at_fault


async def test_each_level_lists_its_own_rules_or_also_those_below(desk: Desk) -> None:
    world = await World.made_by(desk)
    tenant, key = f"/tenants/{world.slug}", f"/tenants/{world.slug}/keys/{world.key}"
    places = [
        (None, None),
        (None, world.grant),
        (world.key, None),
        (world.key, world.key_grant),
    ]

    async def places_of(path: str, **parameters: str) -> list[tuple[str, str]]:
        reply = await desk.get(f"{path}/policies", **parameters)
        return [(each["keyId"], each["grantId"]) for each in reply.json()["items"]]

    assert await places_of(tenant) == places[:1]
    assert await places_of(f"{tenant}/grants/{world.grant}") == places[1:2]
    assert await places_of(key) == places[2:3]
    assert await places_of(f"{key}/grants/{world.key_grant}") == places[3:]
    assert await places_of(tenant, below="true") == places
    assert await places_of(key, below="true") == places[2:]


async def test_lists_are_pages_that_leave_no_rule_out(desk: Desk) -> None:
    world = await World.made_by(desk)
    path = f"/tenants/{world.slug}/policies"
    await desk.put(f"{path}/raw", {"action": "reject"})
    whole = (await desk.get(path, below="true")).json()["items"]

    seen: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await desk.get(path, below="true", limit=1, **cursor)).json()
        seen += page["items"]
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}

    assert len(whole) == 5
    assert seen == whole


async def test_a_rule_taken_away_is_gone_at_its_level_alone(desk: Desk) -> None:
    world = await World.made_by(desk)
    tenant, key = f"/tenants/{world.slug}", f"/tenants/{world.slug}/keys/{world.key}"

    gone = await desk.delete(f"{key}/policies/{FIELD}")

    assert (gone.status_code, gone.content) == (204, b"")
    problem(await desk.delete(f"{key}/policies/{FIELD}"), 404, "not-found")
    problem(await desk.get(f"{key}/policies/{FIELD}"), 404, "not-found")
    for path in (tenant, f"{tenant}/grants/{world.grant}", f"{key}/grants/{world.key_grant}"):
        assert (await desk.get(f"{path}/policies/{FIELD}")).status_code == 200


async def test_changes_bound_to_a_state_that_is_over_are_refused(desk: Desk) -> None:
    path = f"/tenants/{await desk.tenant()}/policies/raw"
    nothing = await desk.put(path, {"action": "strip"}, if_match="*")
    seen = (await desk.put(path, {"action": "strip"})).headers["etag"]
    await desk.put(path, {"action": "reject"}, if_match=seen)

    problem(nothing, 412, "precondition-failed")
    problem(await desk.put(path, {"action": "allow"}, if_match=seen), 412, "precondition-failed")
    problem(await desk.delete(path, if_match=seen), 412, "precondition-failed")
    assert (await desk.get(path)).json()["action"] == "reject"


async def test_a_rule_that_raw_sql_damaged_is_shown_and_repaired(desk: Desk, sql: asyncpg.Connection) -> None:
    slug = await desk.tenant()
    tenant = (await desk.get(f"/tenants/{slug}")).json()["id"]
    await sql.execute(
        """UPDATE tenant_limits SET option_policy = '{"raw": {"action": "maybe"}, "gone": 1}'
        WHERE tenant_id = $1""",
        tenant,
    )

    listed = (await desk.get(f"/tenants/{slug}/policies")).json()["items"]
    repaired = await desk.put(f"/tenants/{slug}/policies/raw", {"action": "strip"})
    removed = await desk.delete(f"/tenants/{slug}/policies/gone")

    assert [(each["field"], each["action"]) for each in listed] == [
        ("gone", "unreadable"),
        ("raw", "unreadable"),
    ]
    assert (repaired.json()["action"], removed.status_code) == ("strip", 204)
