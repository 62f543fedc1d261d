"""The audit log over HTTP: newest first, by what, who and when."""

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from tests.support.admin import Desk, faults, new_slug


async def events(desk: Desk, **wanted: Any) -> list[dict[str, Any]]:
    """Return the items of one page."""
    reply = await desk.get("/audit", **wanted)
    assert reply.status_code == 200, reply.text
    return list(reply.json()["items"])


async def test_an_event_tells_all_there_is_to_it(desk: Desk) -> None:
    made = await desk.post("/tenants", {"slug": new_slug()})
    tenant = made.json()

    (event,) = await events(desk, subject=f"tenant:{tenant['id']}")

    assert {key: event[key] for key in ("actor", "action", "requestId", "address", "before")} == {
        "actor": desk.prefix,
        "action": "tenant.create",
        "requestId": made.headers["x-request-id"],
        "address": desk.address,
        "before": None,
    }
    assert event["after"]["slug"] == tenant["slug"]


async def test_pages_go_from_the_newest_to_the_oldest(desk: Desk) -> None:
    slug = await desk.tenant()
    for name in "abcde":
        await desk.patch(f"/tenants/{slug}", {"name": name})
    subject = f"tenant:{(await desk.get(f'/tenants/{slug}')).json()['id']}"

    names: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await desk.get("/audit", subject=subject, limit=2, **cursor)).json()
        names += [each["after"]["name"] for each in page["items"]]
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}

    assert names == ["e", "d", "c", "b", "a", slug]


async def test_events_of_one_moment_are_neither_repeated_nor_left_out(
    desk: Desk, sql: asyncpg.Connection
) -> None:
    await sql.execute(
        "INSERT INTO audit_events (at, actor, action, subject) SELECT '2020-01-01', 'flood', 'x', n::text"
        " FROM generate_series(1, 7) AS n"
    )

    first = (await desk.get("/audit", actor="flood", limit=4)).json()
    second = (await desk.get("/audit", actor="flood", limit=4, cursor=first["nextCursor"])).json()

    assert sorted(each["subject"] for each in first["items"] + second["items"]) == list("1234567")


async def test_filters_join(desk: Desk) -> None:
    slug = await desk.tenant()
    key = (await desk.new_key(slug))["summary"]
    await desk.post(f"/tenants/{slug}/keys/{key['id']}/revoke")
    subject = f"key:{key['id']}"

    assert [each["action"] for each in await events(desk, subject=subject)] == ["key.revoke", "key.create"]
    assert [each["action"] for each in await events(desk, subject=subject, action="key.create")] == [
        "key.create"
    ]
    assert await events(desk, subject=subject, actor="nobody") == []
    assert len(await events(desk, subject=subject, actor=desk.prefix)) == 2


async def test_a_span_has_its_beginning_and_not_its_end(desk: Desk) -> None:
    tenant = (await desk.post("/tenants", {"slug": new_slug()})).json()
    subject = f"tenant:{tenant['id']}"
    (event,) = await events(desk, subject=subject)
    later = (datetime.fromisoformat(event["at"]) + timedelta(microseconds=1)).isoformat()

    assert len(await events(desk, subject=subject, since=event["at"], until=later)) == 1
    assert await events(desk, subject=subject, since=later) == []
    assert await events(desk, subject=subject, until=event["at"]) == []


@pytest.mark.parametrize(
    ("query", "at_fault"),
    [
        ("since=2020-01-01T00:00:00", "since"),
        ("since=yesterday", "since"),
        ("since=", "since"),
        ("until=9999-12-31T23:59:59-12:00", "until"),
        ("subject=a%20b", "subject"),
        ("subject=%00", "subject"),
        ("subject=a%0A", "subject"),
        ("action=%ff", "action"),
        ("actor=" + "x" * 201, "actor"),
        ("limit=201", "limit"),
        ("cursor=W10", "cursor"),
        ("acton=key.revoke", "acton"),
        (quote("x\r\ny") + "=1", "x\r\ny"),
    ],
)
async def test_a_parameter_at_fault_is_told(desk: Desk, query: str, at_fault: str) -> None:
    assert set(faults(await desk.client.get(f"/admin/v1/audit?{query}"))) == {at_fault}
