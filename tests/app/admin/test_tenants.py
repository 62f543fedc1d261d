"""Tenants over HTTP: created, found, changed by whoever has seen their present state."""

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.support.admin import Desk, faults, new_slug, problem


async def test_a_tenant_is_created_and_found(desk: Desk) -> None:
    slug = new_slug()

    made = await desk.post("/tenants", {"slug": slug, "name": "Research lab", "timeZone": "Europe/Berlin"})
    found = await desk.get(f"/tenants/{slug}")

    assert (made.status_code, found.status_code) == (201, 200)
    assert made.headers["location"] == f"/admin/v1/tenants/{slug}"
    assert made.json() == found.json()
    assert made.headers["etag"] == found.headers["etag"]
    assert {key: made.json()[key] for key in ("name", "timeZone", "status", "allowAllModels")} == {
        "name": "Research lab",
        "timeZone": "Europe/Berlin",
        "status": "active",
        "allowAllModels": False,
    }


async def test_a_tenant_without_a_name_is_called_by_its_slug(desk: Desk) -> None:
    slug = await desk.tenant()

    assert (await desk.get(f"/tenants/{slug}")).json()["name"] == slug


async def test_a_slug_is_taken_once(desk: Desk) -> None:
    slug = await desk.tenant()

    problem(await desk.post("/tenants", {"slug": slug}), 409, "conflict")


@pytest.mark.parametrize(
    ("body", "at_fault"),
    [
        ({}, {"#/slug"}),
        ({"slug": "A"}, {"#/slug"}),
        ({"slug": "x\n"}, {"#/slug"}),
        ({"slug": "x" * 64}, {"#/slug"}),
        ({"slug": 1}, {"#/slug"}),
        ({"slug": None}, {"#/slug"}),
        ({"slug": "x", "name": ""}, {"#/name"}),
        ({"slug": "x", "name": "  "}, {"#/name"}),
        ({"slug": "x", "name": "a\u0000b"}, {"#/name"}),
        ({"slug": "x", "name": "a\n"}, {"#/name"}),
        ({"slug": "x", "name": "n" * 201}, {"#/name"}),
        ({"slug": "x", "name": None}, {"#/name"}),
        ({"slug": "x", "timeZone": "Europe/Atlantis"}, {"#/timeZone"}),
        ({"slug": "x", "timeZone": "../../etc/passwd"}, {"#/timeZone"}),
        ({"slug": "x", "timeZone": "Europe"}, {"#/timeZone"}),
        ({"slug": "x", "timeZone": "a\u0000"}, {"#/timeZone"}),
        ({"slug": "x", "allowAllModels": "yes"}, {"#/allowAllModels"}),
        ({"slug": "x", "status": "active"}, {"#/status"}),
        ({"slug": "x", "time_zone": "UTC"}, {"#/time_zone"}),
        ({"slug": "x", "a/b~c": 1}, {"#/a~1b~0c"}),
        ({"slug": 1, "name": 2, "colour": 3}, {"#/slug", "#/name", "#/colour"}),
    ],
)
async def test_every_field_at_fault_is_told(desk: Desk, body: dict[str, Any], at_fault: set[str]) -> None:
    assert set(faults(await desk.post("/tenants", body))) == at_fault


async def test_lists_are_pages_that_leave_nobody_out(desk: Desk) -> None:
    mine = {await desk.tenant() for _ in range(5)}
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await desk.get("/tenants", limit=2, **cursor)).json()
        assert len(page["items"]) <= 2
        seen += [each["slug"] for each in page["items"]]
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}

    assert seen == sorted(set(seen))
    assert mine <= set(seen)


@pytest.mark.parametrize("limit", ["0", "-1", "201", "1e9", "x", "", "1.5", "9" * 400])
async def test_a_page_has_a_bounded_size(desk: Desk, limit: str) -> None:
    assert set(faults(await desk.get("/tenants", limit=limit))) == {"limit"}


@pytest.mark.parametrize("cursor", ["", "x", "!!!", "W10", "\u00e9", "bnVsbA", "A" * 301])
async def test_only_our_own_cursors_lead_anywhere(desk: Desk, cursor: str) -> None:
    assert set(faults(await desk.get("/tenants", cursor=cursor))) == {"cursor"}


async def test_a_misspelt_parameter_is_a_mistake_and_not_a_list_of_everything(desk: Desk) -> None:
    assert set(faults(await desk.get("/tenants", limt="1", cursor_="x"))) == {"limt", "cursor_"}
    assert set(faults(await desk.client.get("/admin/v1/tenants?limit=1&limit=2"))) == {"limit"}


async def test_an_unknown_tenant_is_not_found(desk: Desk) -> None:
    for slug in ("nobody", "A", "x" * 3000):
        problem(await desk.get(f"/tenants/{slug}"), 404, "not-found")
        problem(await desk.patch(f"/tenants/{slug}", {}), 404, "not-found")


async def test_a_change_leaves_alone_what_it_does_not_name(desk: Desk) -> None:
    slug = await desk.tenant()
    before = (await desk.get(f"/tenants/{slug}")).json()

    after = await desk.patch(f"/tenants/{slug}", {"name": "New name", "allowAllModels": True})

    assert after.status_code == 200
    assert after.json() == before | {"name": "New name", "allowAllModels": True}
    assert after.json() == (await desk.get(f"/tenants/{slug}")).json()


async def test_a_suspended_tenant_s_keys_stop_working_and_work_again_later(desk: Desk) -> None:
    slug = await desk.tenant()
    key = (await desk.new_key(slug))["key"]
    headers = {"Authorization": f"Bearer {key}"}

    async def works() -> bool:
        return (await desk.client.get("/api/version", headers=headers)).status_code == 200

    worked = await works()
    suspended = await desk.patch(f"/tenants/{slug}", {"status": "suspended"})
    await desk.all_acted()
    stopped = not await works()
    active = await desk.patch(f"/tenants/{slug}", {"status": "active"})
    await desk.all_acted()

    assert (suspended.json()["status"], active.json()["status"]) == ("suspended", "active")
    assert worked
    assert stopped
    assert await works()


@pytest.mark.parametrize(
    "change",
    [{"name": ""}, {"name": None}, {"status": "gone"}, {"status": None}, {"timeZone": "Mars"}, {"slug": "y"}],
)
async def test_a_change_is_checked_like_a_creation(desk: Desk, change: dict[str, Any]) -> None:
    slug = await desk.tenant()

    assert set(faults(await desk.patch(f"/tenants/{slug}", change))) == {f"#/{next(iter(change))}"}


async def test_a_change_bound_to_a_state_that_is_over_is_refused(desk: Desk) -> None:
    slug = await desk.tenant()
    seen = (await desk.get(f"/tenants/{slug}")).headers["etag"]

    first = await desk.patch(f"/tenants/{slug}", {"name": "First"}, if_match=seen)
    second = await desk.patch(f"/tenants/{slug}", {"name": "Second"}, if_match=seen)

    assert first.status_code == 200
    assert first.headers["etag"] != seen
    problem(second, 412, "precondition-failed")
    assert (await desk.get(f"/tenants/{slug}")).json()["name"] == "First"


async def test_of_changes_at_once_that_saw_the_same_state_one_is_made(desk: Desk) -> None:
    path = f"/tenants/{await desk.tenant()}"

    # The first round only opens the connections that the others need to meet.
    for number in range(4):
        seen = (await desk.get(path)).headers["etag"]
        names = [f"{number}.{each}" for each in range(12)]
        replies = await asyncio.gather(*(desk.patch(path, {"name": name}, if_match=seen) for name in names))

        assert sorted(reply.status_code for reply in replies) == [200] + [412] * 11


async def test_raw_sql_changes_the_etag_too(desk: Desk, sql: asyncpg.Connection) -> None:
    slug = await desk.tenant()
    seen = (await desk.get(f"/tenants/{slug}")).headers["etag"]

    await sql.execute("UPDATE tenants SET name = 'By hand' WHERE slug = $1", slug)

    problem(await desk.patch(f"/tenants/{slug}", {"name": "Mine"}, if_match=seen), 412, "precondition-failed")


async def test_if_match_takes_lists_and_anything(desk: Desk) -> None:
    slug = await desk.tenant()
    seen = (await desk.get(f"/tenants/{slug}")).headers["etag"]

    assert (await desk.patch(f"/tenants/{slug}", {"name": "A"}, if_match=f'"x", {seen}')).status_code == 200
    assert (await desk.patch(f"/tenants/{slug}", {"name": "B"}, if_match="*")).status_code == 200
    problem(await desk.patch(f"/tenants/{slug}", {"name": "C"}, if_match="x"), 412, "precondition-failed")


async def test_changes_are_audited_with_who_what_and_from_where(desk: Desk, sql: asyncpg.Connection) -> None:
    made = await desk.post("/tenants", {"slug": new_slug()})
    tenant = made.json()

    changed = await desk.patch(f"/tenants/{tenant['slug']}", {"name": "New", "status": "suspended"})
    await desk.patch(f"/tenants/{tenant['slug']}", {"name": "New", "status": "suspended"})

    events = await sql.fetch(
        "SELECT * FROM audit_events WHERE subject = $1 ORDER BY at, id", f"tenant:{tenant['id']}"
    )
    assert [event["action"] for event in events] == ["tenant.create", "tenant.set", "tenant.suspend"]
    assert {event["actor"] for event in events} == {desk.prefix}
    assert {str(event["address"]) for event in events} == {desk.address}
    assert [str(event["request_id"]) for event in events] == [
        made.headers["x-request-id"],
        *[changed.headers["x-request-id"]] * 2,
    ]
