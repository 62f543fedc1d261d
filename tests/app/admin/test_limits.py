"""Limits over HTTP: of a tenant, of a key, and what both come to."""

from typing import Any

import asyncpg
import pytest

from tests.support.admin import Desk, faults, problem

NONE = dict.fromkeys(
    ("requestsPerMinute", "tokensPerMinute", "concurrency", "tokensPerDay", "tokensPerMonth")
)


async def test_nothing_is_limited_at_first(desk: Desk) -> None:
    slug = await desk.tenant()

    reply = await desk.get(f"/tenants/{slug}/limits")

    assert reply.json() == {"own": NONE, "effective": NONE}


async def test_a_change_leaves_alone_what_it_does_not_name_and_null_takes_a_limit_away(desk: Desk) -> None:
    path = f"/tenants/{await desk.tenant()}/limits"

    await desk.patch(path, {"requestsPerMinute": 600, "tokensPerDay": 10**15})
    changed = await desk.patch(path, {"concurrency": 4, "tokensPerDay": None})

    assert changed.json()["own"] == NONE | {"requestsPerMinute": 600, "concurrency": 4}
    assert changed.json() == (await desk.get(path)).json()


async def test_a_key_is_bound_by_the_tighter_of_its_own_and_its_tenant_s(desk: Desk) -> None:
    slug = await desk.tenant()
    key = (await desk.new_key(slug))["summary"]["prefix"]
    await desk.patch(f"/tenants/{slug}/limits", {"requestsPerMinute": 600, "concurrency": 2})

    reply = await desk.patch(
        f"/tenants/{slug}/keys/{key}/limits",
        {"requestsPerMinute": 60, "concurrency": 4, "tokensPerDay": 1000},
    )

    assert reply.json() == {
        "own": NONE | {"requestsPerMinute": 60, "concurrency": 4, "tokensPerDay": 1000},
        "effective": NONE | {"requestsPerMinute": 60, "concurrency": 2, "tokensPerDay": 1000},
    }


async def test_a_limit_that_was_set_is_kept(desk: Desk) -> None:
    slug = await desk.tenant()
    key = (await desk.new_key(slug))["key"]
    await desk.patch(f"/tenants/{slug}/limits", {"requestsPerMinute": 1})
    await desk.all_acted()

    me = (await desk.client.get("/me", headers={"Authorization": f"Bearer {key}"})).json()

    assert [(each["kind"], each["scope"], each["limit"]) for each in me["limits"]] == [
        ("requests_per_minute", "tenant", 1)
    ]


@pytest.mark.parametrize(
    ("change", "at_fault"),
    [
        ({"requestsPerMinute": 0}, {"#/requestsPerMinute"}),
        ({"requestsPerMinute": -1, "concurrency": 2**31}, {"#/requestsPerMinute", "#/concurrency"}),
        ({"tokensPerDay": 10**15 + 1}, {"#/tokensPerDay"}),
        ({"tokensPerMonth": 10**18}, {"#/tokensPerMonth"}),
        ({"tokensPerMinute": "many"}, {"#/tokensPerMinute"}),
        ({"tokensPerMinute": 1.5}, {"#/tokensPerMinute"}),
        ({"tokensPerMinute": True}, {"#/tokensPerMinute"}),
        ({"requests_per_minute": 1}, {"#/requests_per_minute"}),
    ],
)
async def test_every_field_at_fault_is_told(desk: Desk, change: dict[str, Any], at_fault: set[str]) -> None:
    slug = await desk.tenant()

    assert set(faults(await desk.patch(f"/tenants/{slug}/limits", change))) == at_fault


async def test_changes_bound_to_a_state_that_is_over_are_refused(desk: Desk) -> None:
    path = f"/tenants/{await desk.tenant()}/limits"
    seen = (await desk.get(path)).headers["etag"]
    await desk.patch(path, {"concurrency": 4}, if_match=seen)

    problem(await desk.patch(path, {"concurrency": 5}, if_match=seen), 412, "precondition-failed")
    problem(await desk.delete(path, if_match=seen), 412, "precondition-failed")
    assert (await desk.get(path)).json()["own"]["concurrency"] == 4


async def test_clearing_takes_all_limits_of_one_level_and_may_be_repeated(desk: Desk) -> None:
    slug = await desk.tenant()
    key_path = f"/tenants/{slug}/keys/{(await desk.new_key(slug))['summary']['id']}/limits"
    await desk.patch(f"/tenants/{slug}/limits", {"concurrency": 8})
    await desk.patch(key_path, {"concurrency": 4})

    replies = [await desk.delete(key_path) for _ in range(2)]

    assert [(reply.status_code, reply.content) for reply in replies] == [(204, b"")] * 2
    assert (await desk.get(key_path)).json() == {"own": NONE, "effective": NONE | {"concurrency": 8}}


async def test_keys_with_limits_of_their_own_are_listed_in_pages(desk: Desk) -> None:
    slug = await desk.tenant()
    keys = [(await desk.new_key(slug))["summary"]["id"] for _ in range(4)]
    for number, key in enumerate(keys[:3]):
        await desk.patch(f"/tenants/{slug}/keys/{key}/limits", {"concurrency": number + 1})

    first = (await desk.get(f"/tenants/{slug}/limits/keys", limit=2)).json()
    second = (await desk.get(f"/tenants/{slug}/limits/keys", limit=2, cursor=first["nextCursor"])).json()

    assert first["items"] + second["items"] == [
        {"keyId": key, "own": NONE | {"concurrency": number + 1}} for number, key in enumerate(keys[:3])
    ]
    assert second["nextCursor"] is None


async def test_changes_are_audited_and_repeated_ones_are_not(desk: Desk, sql: asyncpg.Connection) -> None:
    slug = await desk.tenant()
    tenant = (await desk.get(f"/tenants/{slug}")).json()["id"]
    path = f"/tenants/{slug}/limits"

    for _ in range(2):
        await desk.patch(path, {"concurrency": 4})
    await desk.patch(path, {})
    for _ in range(2):
        await desk.delete(path)

    events = await sql.fetch(
        "SELECT action, actor FROM audit_events WHERE subject = $1 ORDER BY at, id", f"tenant:{tenant}"
    )
    assert [event["action"] for event in events] == ["tenant.create", "limits.set", "limits.clear"]
    assert {event["actor"] for event in events} == {desk.prefix}
